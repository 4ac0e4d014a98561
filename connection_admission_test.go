package grid

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid/internal/testkit"
	"github.com/gridmesh/grid/internal/wsframe"
)

// introduceProcess goes through the handshake as one process of host.
func (p *fakePeer) introduceProcess(t *testing.T, host string, id byte) *connectResp {
	t.Helper()
	return p.greet(t, &connectReq{ID: [16]byte{id}, Host: host})
}

// live answers pings until the connection ends, and closes ended then.
func (p *fakePeer) live(t *testing.T) (ended chan struct{}) {
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		for {
			b, err := p.frames.Next()
			if err != nil {
				return
			}
			for _, m := range parseAll(t, bytes.Clone(b)) {
				if m.Op == OpPing {
					payload, _ := (&pongMsg{}).MarshalMsg(nil)
					writeHandshake(p.socket, message{Op: OpPong, Payload: payload}, true)
				}
			}
		}
	}()
	return ended
}

// Of two processes with one name the one that is connected keeps its place while it lives, and the
// other one is told who has it.
func TestAProcessKeepsItsPlaceWhileItLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, nil)
		conn := n.Connection(host)
		first := c.knock(t, n)
		if resp := first.introduceProcess(t, host, 1); !resp.Accepted {
			t.Fatal(resp.RejectedReason)
		}
		ended := first.live(t)
		if err := conn.WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		session := conn.current.Load()
		for range 100 {
			second := c.knock(t, n)
			resp := second.introduceProcess(t, host, 2)
			if resp.Accepted || !strings.Contains(resp.RejectedReason, "another process with the name "+host+" is connected, from pipe") {
				t.Errorf("the other process got %+v", resp)
			}
			readToEnd(second)
			second.socket.Close()
			time.Sleep(100 * time.Millisecond)
		}
		if conn.current.Load() != session || conn.Stats().Connects != 1 {
			t.Error("the first process has lost its place")
		}
		if lines := n.log.count("grid: two processes with one name"); lines != 1 || n.log.count("rejected") != 0 {
			t.Errorf("%d lines:\n%s", lines, n.log)
		}
		if n.log.count("remote=pipe") == 0 || n.log.count("other=pipe") == 0 {
			t.Errorf("not both addresses in %s", n.log)
		}
		again := c.knock(t, n)
		start := time.Now()
		if resp := again.introduceProcess(t, host, 1); !resp.Accepted || time.Since(start) > twinPatience/2 {
			t.Errorf("the same process, which has dialed again, got %+v after %v", resp, time.Since(start))
		}
		<-ended
	})
}

// A process that was started again takes the place of the one that it was, also where the old
// socket has not been noticed to be dead.
func TestARestartedProcessReplacesItsOldConnection(t *testing.T) {
	for _, test := range []struct {
		name  string
		after func(p *fakePeer)
		most  time.Duration
	}{
		{"an old socket that is closed", func(p *fakePeer) { p.socket.Close() }, 0},
		{"an old socket that is silent", func(p *fakePeer) {
			for {
				if _, err := p.frames.Next(); err != nil {
					return
				}
			}
		}, twinPatience},
		{"an old socket that takes nothing", func(*fakePeer) {}, twinPatience},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newPipes(1)
				n, host := startForFake(t, c, nil)
				old := c.knock(t, n)
				old.introduceProcess(t, host, 1)
				synctest.Wait()
				go test.after(old)
				synctest.Wait()
				start := time.Now()
				resp := c.knock(t, n).introduceProcess(t, host, 2)
				if took := time.Since(start); !resp.Accepted || took > test.most+twinPatience/2 { // the old session may say goodbye
					t.Errorf("got %+v after %v", resp, took)
				}
			})
		})
	}
}

// A process in the middle of a message that takes its time is alive.
func TestAProcessThatIsSendingKeepsItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, nil)
		first := c.knock(t, n)
		first.introduceProcess(t, host, 1)
		synctest.Wait()
		sent := make(chan struct{})
		go func() { // its answers to pings are behind this
			var head [wsframe.MaxHeaderSize]byte
			first.socket.Write(head[:wsframe.PutHeader(head[:], ws.OpBinary, 1<<20, true, [4]byte{})])
			for range 100 {
				first.socket.Write(make([]byte, 100))
				time.Sleep(100 * time.Millisecond)
			}
			close(sent)
		}()
		go func() {
			for {
				if _, err := first.frames.Next(); err != nil {
					return
				}
			}
		}()
		time.Sleep(time.Second)
		if resp := c.knock(t, n).introduceProcess(t, host, 2); resp.Accepted {
			t.Error("it has lost its place")
		}
		<-sent
		first.socket.Close()
	})
}

// A node that dials sees two processes behind one name one after the other.
func TestADialerNoticesTwoProcessesBehindOneName(t *testing.T) {
	n, p := acceptNode(t)
	c := n.Connection(p.Name)
	seen := func(id byte) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.met(process{id: [16]byte{id}, address: "10.0.0.1:1"}) != nil
	}
	for i, step := range []struct {
		id   byte
		twin bool
	}{{1, false}, {1, false}, {2, false}, {2, false}, {1, true}, {1, false}, {2, true}, {3, false}, {3, false}, {2, true}} {
		if got := seen(step.id); got != step.twin {
			t.Errorf("step %d, process %d: %v, want %v", i, step.id, got, step.twin)
		}
	}
	for id := range byte(100) {
		seen(100 + id)
	}
	if len(c.processes) > knownProcesses {
		t.Errorf("%d processes are remembered", len(c.processes))
	}
}

// A member that connects and leaves in a loop, one after the other or many at once, is let in less
// and less often, and nobody else waits for it.
func TestAMemberThatReconnectsInALoopIsHeldBack(t *testing.T) {
	for _, parallel := range []int{1, 20} {
		synctest.Test(t, func(t *testing.T) {
			c := newPipes(2)
			c.nodes = c.nodes[:1]
			n := c.nodes[0]
			hosts := []string{fakeHost(n.host)}
			hosts = append(hosts, nameThat(func(name string) bool { return shouldDial(name, n.host) }))
			c.startNode(t, n, func(o *ManagerOptions) { o.Hosts = append(hosts, n.host) })
			ctx, stop := context.WithCancel(t.Context())
			const length = 30 * time.Second
			for range parallel {
				go func() {
					for ctx.Err() == nil {
						p := c.knock(t, n)
						payload, _ := (&connectReq{Host: hosts[0]}).MarshalMsg(nil)
						writeHandshake(p.socket, message{Op: OpConnect, Payload: payload}, true)
						p.frames.Next()
						time.Sleep(time.Duration(parallel) * 5 * time.Millisecond)
						p.socket.Close()
					}
				}()
			}
			time.Sleep(length / 2)
			start := time.Now()
			if resp := c.knock(t, n).introduce(t, hosts[1]); !resp.Accepted || time.Since(start) > 0 {
				t.Errorf("another member got %+v after %v", resp, time.Since(start))
			}
			time.Sleep(length / 2)
			stop()
			connects := n.Connection(hosts[0]).Stats().Connects
			most := int64(length/(maxBackoff/2)) + 2*shortSessions
			if connects < 10 || connects > most {
				t.Errorf("%d at once: %d sessions in %v, want at most %d", parallel, connects, length, most)
			}
			time.Sleep(2 * maxBackoff)
			start = time.Now()
			if resp := c.knock(t, n).introduce(t, hosts[0]); !resp.Accepted || time.Since(start) > 0 {
				t.Errorf("after a pause it got %+v after %v", resp, time.Since(start))
			}
			if lines := n.log.count("\n"); lines > 100 {
				t.Errorf("%d lines:\n%s", lines, n.log)
			}
		})
	}
}

// Who has to dial this node and does not is mentioned once, and again after it was there.
func TestAnAbsentPeerIsMentioned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, nil)
		conn := n.Connection(host)
		time.Sleep(conn.patience() - time.Nanosecond)
		synctest.Wait()
		if n.log.count("absent") != 0 || conn.State() != StateUnconnected {
			t.Errorf("mentioned too early, or %v:\n%s", conn.State(), n.log)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		want := `reason="` + neverCame + `" for=` + conn.patience().String()
		if n.log.count(want) != 1 || conn.Stats().LastError != neverCame || conn.State() != StateConnectionError {
			t.Errorf("LastError %q, %v:\n%s", conn.Stats().LastError, conn.State(), n.log)
		}
		time.Sleep(time.Hour)
		if n.log.count("absent") != 1 {
			t.Errorf("mentioned again:\n%s", n.log)
		}
		p := c.knock(t, n)
		p.introduce(t, host)
		ended := p.live(t)
		time.Sleep(time.Hour)
		if conn.State() != StateConnected {
			t.Fatalf("%v", conn.State())
		}
		p.socket.Write(wsframe.AppendClose(nil, 4321, "tired", true, newMask()))
		<-ended
		p.socket.Close()
		time.Sleep(conn.patience() + time.Second)
		if n.log.count(didNotReturn) != 1 || n.log.count("absent") != 2 || !strings.Contains(conn.Stats().LastError, "4321 tired") {
			t.Errorf("LastError %q:\n%s", conn.Stats().LastError, n.log)
		}
	})
}

// A connection whose line was left out is mentioned when it stays.
func TestAConnectionThatCameUpUnseenIsMentionedWhenItStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, nil)
		var p *fakePeer
		for range comingLines + 3 {
			p = c.knock(t, n)
			p.introduce(t, host)
			synctest.Wait() // until it is up
		}
		ended := p.live(t)
		if up := n.log.count("grid: connected"); up != comingLines {
			t.Errorf("%d lines at first", up)
		}
		time.Sleep(logChangedEvery + time.Second)
		if up := n.log.count("grid: connected"); up != comingLines+1 {
			t.Errorf("%d lines:\n%s", up, n.log)
		}
		n.Close()
		<-ended
	})
}

// A node that is started twice: the first one works on, the logs stay short, and the second one
// takes over when the first is gone.
func TestANodeThatRunsTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(2)
		dialer, there := c.nodes[0], c.nodes[1]
		if shouldDial(there.host, dialer.host) {
			dialer, there = there, dialer
		}
		c.start(t, nil)
		c.waitConnected(t)
		if err := dialer.RegisterSingleHandler(testSingle, func(b []byte) ([]byte, *RemoteErr) { return b, nil }); err != nil {
			t.Fatal(err)
		}
		second := &testNode{host: dialer.host, listener: testkit.NewPipeListener()}
		c.startNode(t, second, func(*ManagerOptions) {})
		conn := there.Connection(dialer.host)
		const length = 10 * time.Minute
		for range int(length / time.Second) {
			if _, err := conn.Request(t.Context(), testSingle, []byte("x")); err != nil {
				t.Fatalf("a call failed: %v", err)
			}
			time.Sleep(time.Second)
		}
		if conn.Stats().Connects != 1 {
			t.Errorf("%d sessions", conn.Stats().Connects)
		}
		for name, log := range map[string]*logBuffer{"acceptor": there.log, "first": dialer.log, "second": second.log} {
			if lines := log.count("\n"); lines > int(length/logEvery)+3 {
				t.Errorf("%s: %d lines:\n%s", name, lines, log)
			}
		}
		if want := "another process with the name " + dialer.host + " is connected"; second.log.count(want) == 0 {
			t.Errorf("the second one does not say why:\n%s", second.log)
		}
		dialer.Close()
		time.Sleep(2 * maxBackoff)
		if conn.State() != StateConnected || conn.Stats().Connects != 2 {
			t.Errorf("the second one has not taken over: %v, %d sessions", conn.State(), conn.Stats().Connects)
		}
	})
}

// An older handshake takes nothing from a newer one, wherever it was held up.
func TestAnOlderHandshakeIsOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, host := startForFake(t, newPipes(1), nil)
		c := n.Connection(host)
		held, older, newer := c.nextHandshake(), c.nextHandshake(), c.nextHandshake()
		for range shortSessions + 1 {
			c.admission.streak++
		}
		c.admission.last = time.Now()
		c.admission.next = time.Now().Add(time.Second)
		overtaken, wait, err := c.queueUp(older)
		if overtaken == nil || wait != time.Second || err != nil {
			t.Fatalf("not held back: %v, %v", wait, err)
		}
		waiting, _, err := c.queueUp(newer)
		if waiting == nil || err != nil {
			t.Fatalf("the newer one is not held back: %v", err)
		}
		<-overtaken
		for name, number := range map[string]uint64{"that has waited": older, "that comes late": held} {
			if ch, _, err := c.queueUp(number); ch != nil || err != errOvertaken {
				t.Errorf("an older one %s: got %v, want %v", name, err, errOvertaken)
			}
		}
		select {
		case <-waiting:
			t.Error("the newer one has lost its place")
		default:
		}
		time.Sleep(time.Second)
		if ch, _, err := c.queueUp(newer); ch != nil || err != nil {
			t.Errorf("the newer one is not admitted: %v", err)
		}
		if _, _, err := c.queueUp(older); err != errOvertaken {
			t.Errorf("after the newer one is admitted, the older gets %v", err)
		}
	})
}
