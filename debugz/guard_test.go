package debugz

import (
	"net/http"
	"strings"
	"testing"

	"github.com/gridmesh/grid"
)

// A page of a name that has got this server's address reads nothing here.
func TestPageIsServedUnderItsOwnNamesAlone(t *testing.T) {
	m, err := grid.NewManager(t.Context(), grid.ManagerOptions{
		Local:       "https://Node1.example:9000",
		Hosts:       []string{"https://Node1.example:9000"},
		AuthRequest: func(*http.Request) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	h := Handler(m, Options{Hosts: []string{"status.example", "Other.example:8080"}})
	for host, known := range map[string]bool{
		"localhost":              true,
		"LOCALHOST:8080":         true,
		"localhost.:8080":        true,
		"app.localhost:8080":     true,
		"127.0.0.1":              true,
		"10.1.2.3:8080":          true,
		"[::1]:8080":             true,
		"[fe80::1%25eth0]:8080":  true,
		"node1.example":          true,
		"node1.example:8080":     true,
		"NODE1.EXAMPLE.":         true,
		"status.example":         true,
		"other.example":          true,
		"":                       false,
		"evil.example":           false,
		"evil.example:8080":      false,
		"node1.example.evil":     false,
		"xnode1.example":         false,
		"127.0.0.1.evil.example": false,
		"localhost.evil.example": false,
		"notlocalhost":           false,
		"evil@localhost":         false,
		"1.2.3":                  false,
	} {
		for _, path := range []string{"/", "/status.json", "/live.html", "/debugz.js", "/x"} {
			w := sendTo(h, "GET", path, map[string]string{"Host": host})
			if refused := w.Code == http.StatusMisdirectedRequest; refused == known || refused && strings.Contains(w.Body.String(), "Node1") {
				t.Errorf("%s%s is answered with %d: %.100s", host, path, w.Code, w.Body)
			}
		}
	}
}

// Only the page itself, and what is no browser, turns tracing on.
func TestTracingIsTurnedOnByTheOwnOriginAlone(t *testing.T) {
	m := startGrid(t, 1)[0]
	for _, test := range []struct {
		name   string
		header map[string]string
		code   int
	}{
		{"no browser", nil, http.StatusOK},
		{"the page", map[string]string{"Origin": "http://localhost:8080", "Sec-Fetch-Site": "same-origin"}, http.StatusOK},
		{"the page, in an older browser or without TLS", map[string]string{"Origin": "http://localhost:8080"}, http.StatusOK},
		{"another site", map[string]string{"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}, http.StatusForbidden},
		{"another site, in an older browser or without TLS", map[string]string{"Origin": "http://evil.example"}, http.StatusForbidden},
		{"another port", map[string]string{"Origin": "http://localhost:9999", "Sec-Fetch-Site": "same-site"}, http.StatusForbidden},
		{"no origin at all", map[string]string{"Origin": "null"}, http.StatusForbidden},
		{"a name that has got this address", map[string]string{"Host": "evil.example", "Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}, http.StatusMisdirectedRequest},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, path := range []string{"/status.json", "/live.html"} {
				h := Handler(m, Options{}).(*handler)
				if w := sendTo(h, "POST", path+"?traces=1", test.header); w.Code != test.code {
					t.Errorf("%s is answered with %d", path, w.Code)
				}
				_, on := h.watch.traces()
				if on != (test.code == http.StatusOK) {
					t.Errorf("%s: tracing is on: %v", path, on)
				}
				if on {
					h.watch.stop(h.watch.done)
				}
			}
		})
	}
	h := Handler(m, Options{}).(*handler)
	w := sendTo(h, "POST", "/debug/?q=a%26b&traces=1", nil)
	if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "./?q=a%26b&traces=1" {
		t.Errorf("the page is answered with %d to %q", w.Code, w.Header().Get("Location"))
	}
	h.watch.stop(h.watch.done)
	for _, method := range []string{"PUT", "DELETE", "OPTIONS"} {
		if w := sendTo(h, method, "/?traces=1", nil); w.Code != http.StatusMethodNotAllowed {
			t.Errorf("%s is answered with %d", method, w.Code)
		}
	}
	if w := sendTo(h, "POST", "/status.json", nil); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("a POST for nothing is answered with %d", w.Code)
	}
}
