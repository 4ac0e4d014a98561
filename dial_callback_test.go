package grid

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid/internal/testkit"
)

// dialingOptions are those of a node that dials its only peer.
func dialingOptions(scheme string) ManagerOptions {
	local, peer := scheme+"://127.0.0.1:1", scheme+"://127.0.0.1:2"
	if !shouldDial(local, peer) {
		local, peer = peer, local
	}
	return playerOptions(local, peer)
}

// Callbacks of a dial that misbehave cost that dial, which is repeated, and the log names them.
func TestCallbacksOfADialThatMisbehave(t *testing.T) {
	for how, misbehave := range misbehaves {
		for name, set := range dialCallbacks(misbehave) {
			t.Run(name+" "+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					log := testkit.NewLogLines()
					o := dialingOptions("https")
					o.Logger = slog.New(slog.NewTextHandler(log, nil))
					set(&o)
					m := newTestNode(t, o)
					want := "panic: misbehaved"
					if how == "exits" {
						want = errExitedGoroutine.Error()
					}
					log.Wait(t, "cannot connect", name, want)
					time.Sleep(10 * time.Second)
					if c := m.Connection(o.Hosts[1]); c.stuckDials.Load() != 0 || c.Stats().DialErrors < 3 {
						t.Errorf("%d dials are stuck, %d have failed", c.stuckDials.Load(), c.Stats().DialErrors)
					}
					m.Close()
				})
			})
		}
	}
}

// dialCallbacks sets each callback of a dial to one that misbehaves.
func dialCallbacks(misbehave func()) map[string]func(*ManagerOptions) {
	return map[string]func(*ManagerOptions){
		"AddAuth": func(o *ManagerOptions) { o.AddAuth = func(string) string { misbehave(); return "" } },
		"AddAuthContext": func(o *ManagerOptions) {
			o.AddAuth = nil
			o.AddAuthContext = func(context.Context) (string, error) { misbehave(); return "", nil }
		},
		"Dialer": func(o *ManagerOptions) {
			o.Dialer = func(context.Context, string, string) (net.Conn, error) { misbehave(); return nil, nil }
		},
		"GetTLSConfig": func(o *ManagerOptions) {
			o.Dialer = pipeDialer
			o.GetTLSConfig = func() (*tls.Config, error) { misbehave(); return nil, nil }
		},
	}
}

// pipeDialer connects to nobody.
func pipeDialer(context.Context, string, string) (net.Conn, error) {
	c, _ := net.Pipe()
	return c, nil
}

// A callback that is stuck does not hold the dialer, nor Close, and is named.
func TestCallbacksOfADialThatAreStuck(t *testing.T) {
	for _, name := range []string{"AddAuth", "AddAuthContext", "Dialer", "GetTLSConfig"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				log := testkit.NewLogLines()
				o := dialingOptions("https")
				o.Logger = slog.New(slog.NewTextHandler(log, nil))
				dialCallbacks(func() { <-release })[name](&o)
				m := newTestNode(t, o)
				log.Wait(t, "cannot connect", name+" has not returned in time")
				time.Sleep(10 * time.Minute)
				c := m.Connection(o.Hosts[1])
				if n := c.stuckDials.Load(); n != maxStuckDials {
					t.Errorf("%d dials are stuck, want %d", n, maxStuckDials)
				}
				began := time.Now()
				m.Close()
				if took := time.Since(began); took > 2*callbackGrace {
					t.Errorf("Close took %v", took)
				}
				close(release)
			})
		})
	}
}

// What ends the Manager in a callback of a dial does not wait for itself.
func TestCallbacksOfADialMayEndTheManager(t *testing.T) {
	for _, name := range []string{"AddAuth", "AddAuthContext", "Dialer", "GetTLSConfig"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				made, ended := make(chan *Manager, 1), make(chan struct{})
				o := dialingOptions("https")
				dialCallbacks(func() {
					m := <-made
					m.Close()
					m.Shutdown(context.Background())
					close(ended)
				})[name](&o)
				m := newTestNode(t, o)
				made <- m
				<-ended
			})
		})
	}
}

// AddAuthContext can fail, and its error is told, once for a dial.
func TestAddAuthContextMayFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testkit.NewLogLines()
		o := dialingOptions("http")
		o.AddAuth = nil
		o.AddAuthContext = func(ctx context.Context) (string, error) {
			if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) != defaultDialTimeout {
				t.Error("its context does not end with the dial")
			}
			return "", errors.New("no key")
		}
		o.Logger = slog.New(slog.NewTextHandler(log, nil))
		m := newTestNode(t, o)
		log.Wait(t, "cannot connect", "dial "+o.Hosts[1]+": AddAuthContext: no key")
		m.Close()
	})
	o := dialingOptions("http")
	o.AddAuthContext = func(context.Context) (string, error) { return "", nil }
	if _, err := NewManager(context.Background(), o); err == nil || !strings.Contains(err.Error(), "both set") {
		t.Errorf("with AddAuth and AddAuthContext: %v", err)
	}
}
