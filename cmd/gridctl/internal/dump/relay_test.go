package dump

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gridmesh/grid"
)

// relayed starts a node behind a relay, and returns a guest that is connected through that.
func relayed(t *testing.T, o Options) (conn *grid.Connection, result func() (Summary, error)) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	name, quiet := "http://"+l.Addr().String(), slog.New(slog.DiscardHandler)
	node, err := grid.NewManager(t.Context(), grid.ManagerOptions{
		Local: name, Logger: quiet, AuthRequest: func(*http.Request) error { return nil },
		AcceptGuest: func(*http.Request, string) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	if err := node.Handle("echo", func(_ context.Context, b []byte) ([]byte, error) { return b, nil }); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(node.Handler())
	t.Cleanup(server.Close)

	ctx, cancel := context.WithCancel(t.Context())
	type outcome struct {
		sum Summary
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		sum, err := Relay(ctx, l, server.Listener.Addr().String(), o)
		done <- outcome{sum, err}
	}()
	guest, err := grid.Join(t.Context(), name, grid.ManagerOptions{Local: "guest", Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guest.Close() })
	conn = guest.Connection(name)
	if err := conn.WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return conn, func() (Summary, error) {
		cancel()
		out := <-done
		return out.sum, out.err
	}
}

func TestRelay(t *testing.T) {
	var lines []Line
	answered := make(chan struct{}, 1)
	conn, result := relayed(t, Options{Names: []string{"echo"}, Each: func(l *Line) error {
		lines = append(lines, *l)
		if l.Op == "Response" {
			answered <- struct{}{}
		}
		return nil
	}})
	if got, err := conn.Call(t.Context(), "echo", []byte("hello")); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	<-answered
	sum, err := result()
	if err != nil || sum.Connections != 1 || sum.Grid != 1 || sum.Messages < 4 {
		t.Errorf("%+v, %v", sum, err)
	}
	dialer := lines[0].From
	if !has(lines, dialer, "HTTP", "", "GET /minio/grid/v1") || !has(lines, dialer, "Request", "echo", "within") || !has(lines, lines[0].To, "Response", "echo", "") {
		t.Errorf("%+v", lines)
	}
	for _, l := range lines {
		if l.Wrong != "" {
			t.Errorf("%+v", l)
		}
	}
}

func TestRelayEndsWithAnError(t *testing.T) {
	broken := errors.New("broken pipe")
	conn, result := relayed(t, Options{Each: func(l *Line) error {
		if l.Op == "Request" {
			return broken
		}
		return nil
	}})
	_, _ = conn.Call(t.Context(), "echo", nil) // whether the answer comes through is not said
	if _, err := result(); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

// Who reads the lines slowly does not hold up the nodes.
func TestRelayLeavesOutWhatIsTooMuch(t *testing.T) {
	slow, missing := make(chan struct{}), 0
	conn, result := relayed(t, Options{Each: func(l *Line) error {
		<-slow
		if l.Wrong != "" {
			missing++
		}
		return nil
	}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 2 * heardAhead {
		if _, err := conn.Call(ctx, "echo", []byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
	close(slow)
	if _, err := conn.Call(ctx, "echo", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if sum, err := result(); err != nil || sum.Packets > 3*heardAhead {
		t.Errorf("%+v, %v", sum, err)
	}
	t.Logf("%d gaps", missing)
}

// Nor does it hold up those who connect when the relay has no room left for what it hears.
func TestRelayLetsOthersConnectWhileItsReaderIsBlocked(t *testing.T) {
	blocked := make(chan struct{})
	conn, result := relayed(t, Options{Each: func(*Line) error {
		<-blocked
		return nil
	}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range heardAhead { // each is two chunks
		if _, err := conn.Call(ctx, "echo", []byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
	late, err := grid.Join(ctx, conn.Remote, grid.ManagerOptions{Local: "late", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	second := late.Connection(conn.Remote)
	if err := second.WaitForConnect(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Call(ctx, "echo", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	close(blocked)
	if sum, err := result(); err != nil || sum.Connections != 2 {
		t.Errorf("%+v, %v", sum, err)
	}
}
