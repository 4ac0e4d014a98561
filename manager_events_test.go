package grid

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// events collects what a loop over events is told, in short.
type events struct {
	mu   sync.Mutex // Protects following.
	told []string
}

// follow starts a loop over the events of a node. Peers are called by the last part of their name.
func follow(ctx context.Context, m *Manager) *events {
	e := new(events)
	go func() {
		for event := range m.Events(ctx) {
			host := event.Peer
			text := fmt.Sprintf("%v %s", event.Kind, host[strings.LastIndex(host, "/")+1:])
			if event.Reason != "" {
				text += ": " + event.Reason
			}
			e.mu.Lock()
			e.told = append(e.told, text)
			e.mu.Unlock()
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		e.told = append(e.told, "end")
	}()
	return e
}

// take waits until nothing happens and returns what was told meanwhile.
func (e *events) take() (told []string) {
	synctest.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	told, e.told = e.told, nil
	return told
}

func (e *events) expect(t *testing.T, want ...string) {
	t.Helper()
	if got := e.take(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEventsSayWhatHappensToHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := strangers(t, 3, nil)
		m := c.nodes[0].Manager
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		e := follow(ctx, m)
		e.expect(t)
		c.acquaint(t, 0)
		e.expect(t, "added node1:9000", "added node2:9000")
		if err := c.nodes[1].SetHosts(c.hosts()[:2]); err != nil {
			t.Fatal(err)
		}
		if err := c.conn(0, 1).WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		e.expect(t, "connected node1:9000")
		follow(ctx, m).expect(t, "added node1:9000", "connected node1:9000", "added node2:9000")

		c.cut()
		e.expect(t, "lost node1:9000: io: read/write on closed pipe")
		time.Sleep(maxBackoff)
		e.expect(t, "connected node1:9000")

		if err := c.nodes[1].Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		e.expect(t, "lost node1:9000: peer says goodbye")
		if err := m.SetHosts(c.hosts()[2:]); err != nil {
			t.Fatal(err)
		}
		e.expect(t, "removed node1:9000")
		c.acquaint(t, 0)
		e.expect(t, "added node1:9000")
		cancel()
		e.expect(t, "end")

		e = follow(context.Background(), m)
		e.take()
		m.Close()
		if told := e.take(); len(told) == 0 || told[len(told)-1] != "end" {
			t.Errorf("at the end of the Manager got %q", told)
		}
		var none context.Context
		for range m.Events(none) {
			t.Error("an event without a context")
		}
		for range (*Manager)(nil).Events(context.Background()) {
			t.Error("an event of no Manager")
		}
		if list := *m.node.watchers.list.Load(); len(list) > 0 {
			t.Errorf("%d watchers are left", len(list))
		}
	})
}

// A loop that takes its time is told how things are in the end, however much has happened.
func TestALoopOverEventsThatIsSlowIsToldTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := strangers(t, 2, nil)
		m := c.nodes[0].Manager
		c.acquaint(t, 0, 1)
		c.waitConnected(t)
		taken := make(chan Event)
		goOn := make(chan struct{})
		go func() {
			for e := range m.Events(t.Context()) {
				taken <- e
				<-goOn
			}
		}()
		if e := <-taken; e.Kind != EventAdded || e.Peer != c.nodes[1].host {
			t.Fatalf("got %+v", e)
		}
		for i := range 1000 { // while the loop does something else
			if err := m.SetHosts([]string{c.nodes[1].host, fmt.Sprintf("http://other%d:9000", i)}); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			c.cut()
			time.Sleep(2 * maxBackoff)
		}
		close(goOn)
		var told []string
		for done := false; !done; {
			synctest.Wait()
			select {
			case e := <-taken:
				told = append(told, e.Kind.String()+" "+e.Peer)
			default:
				done = true
			}
		}
		want := []string{"connected " + c.nodes[1].host, "added http://other999:9000"}
		if len(told) > 4 || !slices.Contains(told, want[0]) || !slices.Contains(told, want[1]) {
			t.Errorf("told %q", told)
		}
	})
}

func TestWaitForConnectWaitsForASet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := strangers(t, 5, nil)
		m := c.nodes[0].Manager
		if err := m.WaitForConnect(t.Context(), ReadyAll); err != nil {
			t.Errorf("alone got %v", err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		wait := func(enough Readiness) chan error {
			done := make(chan error, 1)
			go func() { done <- m.WaitForConnect(ctx, enough) }()
			return done
		}
		waits := func(done chan error) {
			t.Helper()
			time.Sleep(5 * time.Second)
			select {
			case err := <-done:
				t.Errorf("did not wait, and got %v", err)
			default:
			}
		}
		c.acquaint(t, 0)
		quorum, all := wait(ReadyQuorum), wait(ReadyAll)
		waits(quorum)
		c.acquaint(t, 1)
		waits(quorum)
		c.acquaint(t, 2)
		if err := <-quorum; err != nil {
			t.Error(err)
		}
		waits(all)
		c.acquaint(t, 3)
		waits(all)
		if err := m.SetHosts(c.hosts()[:4]); err != nil { // without the one that is missing
			t.Fatal(err)
		}
		if err := <-all; err != nil {
			t.Error(err)
		}
		c.acquaint(t, 0)
		all = wait(ReadyAll)
		waits(all)
		enough := errors.New("enough")
		cancel(enough)
		if err := <-all; !errors.Is(err, enough) || !strings.Contains(err.Error(), "not connected to") || !strings.Contains(err.Error(), c.nodes[4].host) || strings.Contains(err.Error(), c.nodes[1].host) {
			t.Errorf("got %v", err)
		}
		ctx = t.Context()
		all = wait(ReadyAll)
		synctest.Wait()
		m.Close()
		if err := <-all; err != error(ErrShutdown) {
			t.Errorf("at the end of the Manager got %v", err)
		}
		var none context.Context
		if (*Manager)(nil).WaitForConnect(ctx, ReadyAll) != error(ErrShutdown) || m.WaitForConnect(none, ReadyAll) == nil {
			t.Error("no error")
		}
	})
}

// A connection that was lost and is up again before the loop has looked was lost.
func TestALoopOverEventsIsToldOfEveryReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		told, goOn := make(chan EventKind), make(chan struct{})
		go func() {
			for e := range c.nodes[0].Events(t.Context()) {
				told <- e.Kind
				<-goOn
			}
		}()
		defer close(goOn)
		for i, want := range []EventKind{EventAdded, EventConnected, EventLost, EventConnected} {
			if i == 2 {
				c.cut()
				time.Sleep(2 * maxBackoff)
				c.waitConnected(t)
			}
			if i > 0 {
				goOn <- struct{}{}
			}
			select {
			case got := <-told:
				if got != want {
					t.Fatalf("event %d is %v, want %v", i, got, want)
				}
			case <-time.After(time.Minute):
				t.Fatalf("event %d, %v, does not come", i, want)
			}
		}
	})
}
