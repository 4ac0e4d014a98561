package grid

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestHealth(t *testing.T) {
	c := startCluster(t, 3, nil)
	h := c.nodes[0].Health(t.Context())
	if !h.All() || !h.Quorum() || h.Reachable() != 2 || h.Local != c.nodes[0].host || h.Time.IsZero() || h.Shutdown {
		t.Errorf("%+v", h)
	}
	for i, p := range h.Peers {
		if p.Peer != c.nodes[i+1].host || p.State != StateConnected || p.RoundTrip <= 0 || p.LastPong.IsZero() || p.Error != "" {
			t.Errorf("%+v", p)
		}
		if s := c.conn(0, i+1).Stats(); s.RoundTrip <= 0 {
			t.Errorf("the round trip of %s is not kept", s.Remote)
		}
	}
	c.nodes[1].Close()
	eventually(t, "the loss", func() bool { return c.conn(0, 1).State() == StateConnectionError })
	h = c.nodes[0].Health(t.Context())
	if h.All() || !h.Quorum() || h.Reachable() != 1 || h.Peers[0].Reachable || h.Peers[0].Error == "" {
		t.Errorf("%+v", h)
	}
	c.nodes[2].Close()
	eventually(t, "the loss", func() bool { return c.conn(0, 2).State() == StateConnectionError })
	if h = c.nodes[0].Health(t.Context()); h.Quorum() || h.Reachable() != 0 {
		t.Errorf("%+v", h)
	}
	c.nodes[0].Close()
	if h = c.nodes[0].Health(t.Context()); !h.Shutdown || h.Quorum() {
		t.Errorf("%+v", h)
	}
}

// A node that waits for its last calls takes no others, and is not ready.
func TestHealthOfANodeThatShutsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		n := c.nodes[0]
		leave := make(chan struct{})
		err := n.RegisterSingleHandler(testSingle, func([]byte) ([]byte, *RemoteErr) {
			<-leave
			return nil, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		go c.conn(1, 0).Request(t.Context(), testSingle, nil)
		synctest.Wait()
		done := make(chan error)
		go func() { done <- n.Shutdown(t.Context()) }()
		synctest.Wait()
		if h := n.Health(t.Context()); !h.Shutdown || h.Quorum() {
			t.Errorf("%+v", h)
		}
		close(leave)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A peer that is connected and silent is not reachable, and Health returns with its context.
func TestHealthOfSilentPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, nil)
		p := c.knock(t, n)
		p.introduce(t, host)
		go func() {
			for {
				if _, err := p.frames.Next(); err != nil {
					return
				}
			}
		}()
		if err := n.Connection(host).WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				start := time.Now()
				h := n.Health(ctx)
				if got := h.Peers[0]; got.Reachable || got.State != StateConnected || got.Error != "context deadline exceeded" {
					t.Errorf("%+v", got)
				}
				if d := time.Since(start); d != time.Second {
					t.Errorf("it took %v", d)
				}
			})
		}
		wg.Wait()
	})
}

func TestHealthHandler(t *testing.T) {
	c := startCluster(t, 3, nil)
	node := c.nodes[0]
	get := func(o HealthOptions, method, path string) (code int, body map[string]any) {
		t.Helper()
		w := httptest.NewRecorder()
		node.HealthHandler(o).ServeHTTP(w, httptest.NewRequest(method, path, nil))
		if strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		return w.Code, body
	}
	expect := func(what string, o HealthOptions, path string, want int) {
		t.Helper()
		code, body := get(o, "GET", path)
		status := "ok"
		if want != http.StatusOK {
			status = "unavailable"
		}
		if code != want || body["status"] != status {
			t.Errorf("%s: %s is %d %v, want %d", what, path, code, body, want)
		}
	}
	all := HealthOptions{Ready: ReadyAll, Timeout: 5 * time.Second}
	expect("all up", HealthOptions{}, "/health/live", 200)
	expect("all up", HealthOptions{}, "/health/ready", 200)
	expect("all up", all, "/x/y/ready", 200)
	c.nodes[1].Close()
	eventually(t, "the loss", func() bool { return c.conn(0, 1).State() == StateConnectionError })
	expect("one down", HealthOptions{}, "/health/ready", 200)
	expect("one down", all, "/health/ready", 503)
	c.nodes[2].Close()
	eventually(t, "the loss", func() bool { return c.conn(0, 2).State() == StateConnectionError })
	expect("two down", HealthOptions{}, "/health/ready", 503)
	expect("two down", HealthOptions{}, "/health/live", 200)
	_, body := get(HealthOptions{}, "GET", "/health/ready")
	peer := body["peers"].([]any)[0].(map[string]any)
	if peer["peer"] != c.nodes[1].host || peer["state"] != "ConnectionError" || peer["reachable"] != false || peer["error"] == "" {
		t.Errorf("the body says %v", peer)
	}
	node.Close()
	expect("closed", HealthOptions{}, "/health/live", 503)
	expect("closed", HealthOptions{}, "/health/ready", 503)
	if code, _ := get(all, "GET", "/health/else"); code != http.StatusNotFound {
		t.Errorf("an unknown path is %d", code)
	}
	if code, _ := get(all, "POST", "/health/ready"); code != http.StatusMethodNotAllowed {
		t.Errorf("POST is %d", code)
	}
}

// How long an answer took is measured from the ping on, whatever time the peer sends back.
func TestRoundTripIsMeasuredFromThePing(t *testing.T) {
	for name, echo := range map[string]func(sent time.Time) time.Time{
		"an empty pong":        func(time.Time) time.Time { return time.Time{} },
		"the ping's time":      func(sent time.Time) time.Time { return sent },
		"a clock that is slow": func(sent time.Time) time.Time { return sent.Add(-time.Hour) },
		"a clock that is fast": func(sent time.Time) time.Time { return sent.Add(time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newPipes(1)
				n, host := startForFake(t, c, nil)
				p := c.knock(t, n)
				p.introduce(t, host)
				conn := n.Connection(host)
				pong := func(T time.Time) {
					p.send(t, message{Op: OpPong, Payload: encoded(t, &pongMsg{T: T})})
					synctest.Wait()
				}
				pong(time.Now().Add(-time.Minute)) // answers nothing
				if got := conn.Stats().RoundTrip; got != 0 {
					t.Errorf("before the first ping the round trip took %v", got)
				}
				for _, took := range []time.Duration{3 * time.Millisecond, 20 * time.Millisecond} {
					var ping pingMsg
					for found := false; !found; {
						b, err := p.frames.Next()
						if err != nil {
							t.Fatal(err)
						}
						for _, m := range parseAll(t, bytes.Clone(b)) {
							if m.Op == OpPing && m.MuxID == 0 {
								found = true
								if err := unmarshal(&ping, m.Payload); err != nil {
									t.Fatal(err)
								}
							}
						}
					}
					time.Sleep(took)
					if got := conn.Stats().Unanswered; got != took {
						t.Errorf("the ping has waited for %v, want %v", got, took)
					}
					pong(echo(ping.T))
					if s := conn.Stats(); s.RoundTrip != took || s.Unanswered != 0 {
						t.Errorf("the round trip took %v, want %v; a ping has waited for %v", s.RoundTrip, took, s.Unanswered)
					}
					pong(echo(ping.T)) // once more, which answers nothing
					if got := conn.Stats().RoundTrip; got != took {
						t.Errorf("after a second pong the round trip took %v, want %v", got, took)
					}
				}
				p.socket.Close()
				n.Close()
				synctest.Wait()
			})
		})
	}
}
