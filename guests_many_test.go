package grid

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gridmesh/grid/internal/race"
	"github.com/gridmesh/grid/internal/testkit"
)

// go test -v -run TestManyGuests -many-guests 10000 .
var manyGuests = flag.Int("many-guests", 100, "how many guests TestManyGuests has")

// manyGuestsEnv makes TestManyGuestsChild play a part: "server" and its address, or "guests", the URL
// of the server, the number of the first guest and how many there are.
const manyGuestsEnv = "GRID_MANY_GUESTS"

// guestsPerProcess keeps a process below the number of files that most systems allow.
const guestsPerProcess = 2500

// mostPerGuest is how many bytes a guest may take at its server.
const mostPerGuest = 20_000

// manyPart is a process of TestManyGuests.
type manyPart struct {
	*exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Scanner
}

func startPart(t *testing.T, part string) *manyPart {
	t.Helper()
	p := &manyPart{Cmd: exec.Command(os.Args[0], "-test.run=^TestManyGuestsChild$")}
	p.Env = append(os.Environ(), manyGuestsEnv+"="+part)
	p.Stderr = os.Stderr
	var err error
	if p.stdin, err = p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdout = bufio.NewScanner(stdout)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	p.answer(t) // that it is ready
	return p
}

// kill ends the process without a word to its peers.
func (p *manyPart) kill() {
	_ = p.Process.Kill() // may have ended
	_ = p.Wait()
}

// answer reads the next answer of the process.
func (p *manyPart) answer(t *testing.T) string {
	t.Helper()
	for p.stdout.Scan() {
		if text, ok := strings.CutPrefix(p.stdout.Text(), "answer "); ok {
			return text
		}
	}
	t.Fatal("a process of the test has ended")
	return ""
}

// ask asks the server for numbers.
func (p *manyPart) ask(t *testing.T, question string) (numbers []int64) {
	t.Helper()
	if _, err := fmt.Fprintln(p.stdin, question); err != nil {
		t.Fatal(err)
	}
	for text := range strings.FieldsSeq(p.answer(t)) {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, n)
	}
	return numbers
}

// waitAll waits until n guests are connected, and returns how long that took.
func (p *manyPart) waitAll(t *testing.T, n int) time.Duration {
	t.Helper()
	began := time.Now()
	var count int64
	for time.Since(began) < 5*time.Minute {
		if count = p.ask(t, "count")[0]; count == int64(n) {
			return time.Since(began)
		}
		time.Sleep(50 * time.Millisecond) // between looks
	}
	t.Fatalf("%d of %d guests are connected", count, n)
	return 0
}

// What a guest costs its server, and how soon all of them are back when the server was killed and
// starts again.
func TestManyGuests(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	n := *manyGuests
	address := testkit.FreeAddress(t)
	url := "http://" + address
	server := startPart(t, "server "+address)
	before := server.ask(t, "memory")
	for first := 0; first < n; first += guestsPerProcess {
		startPart(t, fmt.Sprintf("guests %s %d %d", url, first, min(guestsPerProcess, n-first)))
	}
	t.Logf("%d guests have come within %v", n, server.waitAll(t, n).Round(time.Millisecond))
	var each int64
	for range 20 { // what the handshakes used is given back when their goroutines have ended
		after := server.ask(t, "memory")
		heap, stacks := (after[0]-before[0])/int64(n), (after[1]-before[1])/int64(n)
		each = heap + stacks
		t.Logf("%d bytes for each: %d of heap and %d of stacks, with %.2f goroutines", each, heap, stacks, float64(after[2]-before[2])/float64(n))
		if each <= mostPerGuest {
			break
		}
		time.Sleep(50 * time.Millisecond) // between looks
	}
	if !race.Enabled && each > mostPerGuest {
		t.Errorf("each guest takes %d bytes, more than %d", each, mostPerGuest)
	}
	took := server.ask(t, "stats")[0]
	t.Logf("Manager.Stats took %v", time.Duration(took).Round(time.Microsecond))
	server.kill()
	time.Sleep(2 * time.Second) // as long as a restart takes
	server = startPart(t, "server "+address)
	t.Logf("all are back %v after the server", server.waitAll(t, n).Round(time.Millisecond))
}

func TestManyGuestsChild(t *testing.T) {
	part := strings.Fields(os.Getenv(manyGuestsEnv))
	if len(part) == 0 {
		t.Skip("a part of TestManyGuests")
	}
	stdin := bufio.NewScanner(os.Stdin)
	if part[0] == "guests" {
		first, _ := strconv.Atoi(part[2])
		n, _ := strconv.Atoi(part[3])
		for i := range n {
			m, err := Join(context.Background(), part[1], ManagerOptions{Local: fmt.Sprint("guest ", first+i), Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
		}
		fmt.Println("answer ready")
		stdin.Scan() // until the other process ends
		return
	}
	l, err := net.Listen("tcp", part[1])
	if err != nil {
		t.Fatal(err)
	}
	m, err := NewManager(context.Background(), ManagerOptions{
		Local:       "http://" + part[1],
		AuthRequest: func(*http.Request) error { return nil },
		AcceptGuest: acceptAll,
		Logger:      slog.New(slog.DiscardHandler),
		Limits:      Limits{MaxGuests: 1 << 20},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	testkit.Serve(t, l, m.Handler(), slog.DiscardHandler)
	fmt.Println("answer ready")
	for stdin.Scan() {
		switch stdin.Text() {
		case "count":
			fmt.Println("answer", len(m.Guests()))
		case "memory":
			heap, stacks, goroutines := inUse()
			fmt.Println("answer", heap, stacks, goroutines)
		case "stats":
			began := time.Now()
			m.Stats()
			fmt.Println("answer", time.Since(began).Nanoseconds())
		}
	}
}
