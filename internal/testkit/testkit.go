// Package testkit has what tests at the root and those of other packages share: waiting, logs,
// listeners, and a peer that is driven by hand. It knows nothing of package grid, whose own tests
// import it.
package testkit

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// Patience bounds every wait for a node: what takes longer does not come.
const Patience = 10 * time.Second

// Eventually polls until ok returns true. state, where given, says what is there instead.
func Eventually(t *testing.T, what string, ok func() bool, state ...func() string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			var got strings.Builder
			for _, s := range state {
				got.WriteString(s())
			}
			t.Fatalf("waited in vain for %s: %s", what, &got)
		}
	}
}

// Within fails the test when f does not return soon.
func Within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s takes too long:\n%s", what, strings.Join(Goroutines(), "\n\n"))
	}
}

// WaitGoroutines returns when at most n of the library's goroutines are left.
func WaitGoroutines(t *testing.T, n int) {
	t.Helper()
	Eventually(t, fmt.Sprintf("at most %d goroutines", n),
		func() bool { return len(Goroutines()) <= n },
		func() string { return strings.Join(Goroutines(), "\n\n") })
}

// Memory returns the bytes in use, on the heap and of stacks.
func Memory() int {
	var stats runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&stats)
	return int(stats.HeapAlloc + stats.StackInuse)
}

// Listen opens a port on loopback and returns the name of a node there.
func Listen(t *testing.T) (l net.Listener, name string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, "http://" + l.Addr().String()
}

// FreeAddress returns an address on loopback where nobody listens, for a process that is about to.
// Nobody gets its port by chance meanwhile: systems give away higher ones.
func FreeAddress(t *testing.T) string {
	t.Helper()
	for range ports {
		address := fmt.Sprintf("127.0.0.1:%d", nextPort())
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

// FreeAddress has this many ports, from the first on.
const firstPort, ports = 20000, 12000

// nextPort returns a port below those that systems give to clients and to those who do not mind,
// another one each time and, most likely, in each process.
var nextPort = func() func() int {
	var mu sync.Mutex
	port := os.Getpid() * 97 % ports
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		port = (port + 1) % ports
		return firstPort + port
	}
}()

// Serve serves h on l until the test ends, when it closes the server and waits for its end. The
// server logs to log.
func Serve(t *testing.T, l net.Listener, h http.Handler, log slog.Handler) *http.Server {
	server := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(log, slog.LevelWarn)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return server
}
