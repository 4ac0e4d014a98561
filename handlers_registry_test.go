package grid

import (
	"math"
	"net/http"
	"strconv"
	"sync"
	"testing"
)

// Registering copies no more than about the root of what is there, and changes no table that is
// there.
func TestRegisteringManySubroutesIsNotQuadratic(t *testing.T) {
	const n = 20_000
	var tables []routes[int]
	var table routes[int]
	id := func(i int) routeID { return makeRouteID(HandlerUserFirst, strconv.Itoa(i)) }
	copied := 0
	for i := range n {
		before := len(table.latest)
		table = table.with(id(i), i)
		if copied += before; len(table.latest) <= before {
			copied += len(table.most)
		}
		if i%1000 == 0 {
			tables = append(tables, table)
		}
	}
	if most := 4 * n * int(math.Sqrt(n)); copied > most {
		t.Errorf("registering %d handlers copied %d", n, copied)
	}
	for i := range n {
		if got := table.get(id(i)); got != i {
			t.Fatalf("handler %d is %d", i, got)
		}
	}
	for i, old := range tables {
		if got := old.get(id(i*1000 + 1)); got != 0 {
			t.Errorf("a table has a handler that was registered later: %d", got)
		}
	}
}

// Callers share a Subroute, and with it what leads to each handler.
func TestASubrouteKnowsTheRouteToEachHandler(t *testing.T) {
	s := (&Connection{}).Subroute("disks").Subroute("sda")
	var made [256]*route
	for h := range made {
		made[h] = s.to(HandlerID(h))
	}
	fresh := (&Connection{}).Subroute("disks/sda")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for h := range made {
				r := s.to(HandlerID(h))
				if r != made[h] {
					t.Errorf("handler %d has more than one route", h)
				}
				for _, r := range []*route{r, fresh.to(HandlerID(h))} {
					if want := makeRouteID(HandlerID(h), "disks/sda"); r.id != want || r.name != "disks/sda" {
						t.Errorf("the route to handler %d is %x, %s, want %x", h, r.id, r.name, want)
					}
				}
			}
		})
	}
	wg.Wait()
	n := 0
	for r := fresh.routes.Load(); r != nil; r = r.next {
		n++
	}
	if n++; n != len(made) { // that of a method belongs to all
		t.Errorf("there are %d routes to %d handlers", n, len(made))
	}
}

func TestOptionsThatAreWrongAreExplained(t *testing.T) {
	for name, want := range map[string]string{
		"10.0.0.1:1":            `"10.0.0.1:1" does not start with http:// or https://`,
		"http://\xff:1":         `"http://\xff:1": not UTF-8`,
		"http://a\u200b:1":      `"http://a\u200b:1": '\u200b' cannot be printed`,
		"ftp://10.0.0.1:1":      `"ftp://10.0.0.1:1" does not start with http:// or https://`,
		"http://10.0.0.1:0":     `"http://10.0.0.1:0" has no port from 1 to 65535`,
		"http://10.0.0.1:99999": `"http://10.0.0.1:99999" has no port from 1 to 65535`,
		"http://10.0.0.1":       "",
		"https://[::1]:65535":   "",
	} {
		got := ""
		if err := checkHost(name); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	o := ManagerOptions{Local: "http://c", Hosts: []string{"http://a", "http://b"}, AuthRequest: func(*http.Request) error { return nil }}
	want := `grid: ManagerOptions.Local: "http://c" is not one of Hosts, which are ["http://a" "http://b"]`
	if err := o.check(); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
