package grid

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestStreamsHaveHeadersAndTrailers(t *testing.T) {
	for name, ends := range map[string]func(st *RawStream){
		"after messages":         func(st *RawStream) { st.Send([]byte("a")) },
		"without any":            func(*RawStream) {},
		"after those have ended": func(st *RawStream) { st.Send([]byte("a")); st.CloseSend() },
	} {
		t.Run(name, func(t *testing.T) {
			c := startCluster(t, 2, nil)
			if err := c.nodes[1].HandleStream("soup.Eat", func(_ context.Context, st *RawStream) error {
				if err := st.SetHeader(Metadata{"h": {"1", "2"}}); err != nil {
					t.Error(err)
				}
				ends(st)
				if err := st.SetTrailer(Metadata{"t": {"3"}}); err != nil {
					t.Error(err)
				}
				return Errorf(NotFound, "no soup")
			}); err != nil {
				t.Fatal(err)
			}
			st, err := c.conn(0, 1).OpenStream(t.Context(), "soup.Eat", nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := recvAll(st); err == io.EOF {
				<-st.Done()
				if err := st.Results(func([]byte) error { return nil }); !errors.Is(err, NotFound) {
					t.Errorf("the stream ended with %v", err)
				}
			} else if !errors.Is(err, NotFound) {
				t.Errorf("the stream ended with %v", err)
			}
			if h, tr := st.Header().Values("h"), st.Trailer().Get("t"); !slices.Equal(h, []string{"1", "2"}) || tr != "3" {
				t.Errorf("header %q, trailer %q", h, tr)
			}
			c.waitIdle(t)
		})
	}
	var none *Stream
	if none.Header() != nil || none.Trailer() != nil {
		t.Error("no stream has metadata")
	}
}

// A handler that is cut short and ends its messages, as with a deferred CloseSend, has not sent all of
// them: its caller gets the reason, and no io.EOF.
func TestTheEndOfMessagesThatWereCutShortIsNoEnd(t *testing.T) {
	errEnough := errors.New("enough")
	for name, test := range map[string]struct {
		interceptors []Interceptor
		timeout      time.Duration
		want         error
	}{
		"by an interceptor": {[]Interceptor{hurried(time.Second, errEnough)}, time.Minute, RemoteErr(errEnough.Error())},
		"by its deadline":   {nil, time.Second, context.DeadlineExceeded},
	} {
		for how, wait := range map[string]func(st *RawStream){
			"and looks at its context": func(st *RawStream) { <-st.Context().Done() },
			"and looks at the clock": func(st *RawStream) {
				deadline, _ := st.Context().Deadline()
				time.Sleep(time.Until(deadline))
			},
			"and fails to send": func(st *RawStream) { _ = fill(st.Send) },
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := startPipes(t, 2, func(_ int, o *ManagerOptions) { o.Interceptors = test.interceptors })
					c.raw(t, func(ctx context.Context, st *RawStream) error {
						if err := st.Send([]byte("half of it")); err != nil {
							t.Error(err)
						}
						wait(st)
						st.CloseSend()
						time.Sleep(time.Second)
						return context.Cause(ctx)
					})
					deadline := time.Now().Add(test.timeout)
					late, cancel := context.WithDeadline(t.Context(), deadline.Add(100*time.Millisecond))
					defer cancel()
					st := c.mustOpenRaw(lateContext{late, deadline}, t)
					time.Sleep(time.Second + 50*time.Millisecond)
					if _, err := recvAll(st); !errors.Is(err, test.want) {
						t.Errorf("the stream ended with %v, want %v", err, test.want)
					}
					c.idleAfter(t, 2*time.Second)
				})
			})
		}
	}
}

// Whatever a handler's side sends behind the end of its messages ends the stream, and nothing else.
func TestNothingComesBehindTheEndOfAHandlersMessages(t *testing.T) {
	end := message{Op: OpMuxServerEnd}
	one := message{Op: OpMuxServerMsg, Payload: []byte("a")}
	for name, test := range map[string]streamScript{
		"nothing":                  {nativeFeatures, []message{one, end, {Op: OpMuxServerMsg, Flags: FlagEOF}}, []error{nil, io.EOF}, false},
		"credit":                   {nativeFeatures, []message{end, {Op: OpUnblockClMux, DeadlineMS: 100}, {Op: OpMuxServerMsg, Flags: FlagEOF}}, []error{io.EOF}, false},
		"a message":                {nativeFeatures, []message{end, one}, []error{errBehindEnd}, true},
		"a last message":           {nativeFeatures, []message{end, {Op: OpMuxServerMsg, Flags: FlagEOF, Payload: []byte("a")}}, []error{errBehindEnd}, true},
		"another end":              {nativeFeatures, []message{end, end}, []error{errBehindEnd}, true},
		"an end with a payload":    {nativeFeatures, []message{{Op: OpMuxServerEnd, Payload: []byte("a")}, {Op: OpMuxServerMsg, Flags: FlagEOF}}, []error{io.EOF}, false},
		"an end out of order":      {nativeFeatures, []message{{Op: OpMuxServerEnd, Seq: 5}}, []error{ErrIncorrectSequence}, true},
		"an end that nobody knows": {nativeFeatures &^ featureHalves, []message{end, one}, []error{ErrIncorrectSequence}, true},
	} {
		t.Run(name, func(t *testing.T) { test.play(t, message{Op: OpMuxServerEnd}, featureHalves, nil) })
	}
}

// streamScript is what a peer sends in the name of a stream's handler, and what comes of it.
type streamScript struct {
	features uint32 // of the peer
	sends    []message
	want     []error // of Recv
	canceled bool    // the node gives the stream up
}

// play opens the stream of a script. read, which may be nil, looks at it once its messages are
// received. Then the peer sends a late message, of a stream that is gone: those who have a feature are
// told so. The connection survives all of it.
func (s *streamScript) play(t *testing.T, late message, feature uint32, read func(st *Stream)) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, nil)
		p := c.knock(t, n)
		p.introduceAs(t, host, s.features)
		conn := n.Connection(host)
		if err := conn.WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		st, err := conn.OpenStream(t.Context(), "soup.Eat", nil)
		if err != nil {
			t.Fatal(err)
		}
		open := p.next(t)
		if open.Op != OpConnectMux || open.Flags&FlagEOF != 0 {
			t.Fatalf("the node sent %v %v", open.Op, open.Flags)
		}
		p.send(t, message{MuxID: open.MuxID, Op: OpAckMux, DeadlineMS: minStreamWindow})
		seq := uint32(1)
		for _, m := range s.sends {
			m.MuxID = open.MuxID
			if m.Seq == 0 {
				m.Seq = seq
			}
			seq++
			p.send(t, m)
		}
		synctest.Wait()
		for i, want := range s.want {
			if b, err := st.Recv(); !errors.Is(err, want) {
				t.Errorf("Recv %d: got %q, %v, want %v", i, b, err, want)
			}
		}
		if read != nil {
			read(st)
		}
		givenUp := func() {
			t.Helper()
			if m := p.next(t); m.Op != OpDisconnectServerMux || m.MuxID != open.MuxID {
				t.Errorf("the node sent %v", m.Op)
			}
		}
		if s.canceled {
			givenUp()
		}
		synctest.Wait()
		if left := c.idle(); left != "" {
			t.Error(left)
		}
		late.MuxID, late.Seq = open.MuxID, seq
		p.send(t, late)
		if s.features&feature != 0 {
			givenUp()
		}
		synctest.Wait()
		if conn.State() != StateConnected {
			t.Error("the connection is lost")
		}
		p.socket.Close()
		n.Close()
		synctest.Wait()
	})
}

func TestObserversSeeWhatGoesOverRawStreams(t *testing.T) {
	here, there := newWatched(), newWatched()
	c := intercepted(t, []Interceptor{here.interceptor()}, []Interceptor{there.interceptor()})
	c.raw(t, func(_ context.Context, st *RawStream) error {
		for b, err := range st.All() {
			if err != nil {
				return err
			}
			st.Send(append(b, "!!"...))
		}
		return errors.New("out of soup")
	})
	st := c.mustOpenRaw(t.Context(), t)
	for range 5 {
		st.Send(make([]byte, 10))
	}
	st.CloseSend()
	if all, err := recvAll(st); len(all) != 5 || errorText(err) != "out of soup" {
		t.Errorf("received %d, %v", len(all), err)
	}
	for side, w := range map[string]*watched{"here": here, "there": there} {
		if err := <-w.ends; errorText(err) != "out of soup" {
			t.Errorf("ended %s with %v", side, err)
		}
		want := [4]int64{5, 50, 5, 60}
		if w == there {
			want = [4]int64{5, 60, 5, 50}
		}
		if got := w.counts(); got != want {
			t.Errorf("seen %s: %v, want %v", side, got, want)
		}
	}
	c.waitIdle(t)
}

// Observers are told once of the end of each stream, also of one that is read for a while and then
// left.
func TestObserversAreToldOfStreamsThatAreLeft(t *testing.T) {
	errEnough := errors.New("enough")
	const messages = 20
	for name, test := range map[string]struct {
		goesOn bool // the handler
		recv   int  // messages
		want   error
		atOnce bool // without the end of the context
	}{
		"unread, and the handler goes on":      {true, 0, errEnough, false},
		"one read, and the handler goes on":    {true, 1, errEnough, false},
		"all read, and the handler goes on":    {true, messages, errEnough, false},
		"unread, and the handler returns":      {false, 0, nil, false},
		"one read, and the handler returns":    {false, 1, nil, false},
		"all read but one, and it returns":     {false, messages - 1, nil, false},
		"all read, and the handler returns":    {false, messages, nil, true},
		"the end read, and a handler that did": {false, messages + 1, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWatched()
				c := startPipes(t, 2, func(i int, o *ManagerOptions) {
					if i == 0 {
						o.Interceptors = []Interceptor{w.interceptor()}
					}
				})
				c.raw(t, func(ctx context.Context, st *RawStream) error {
					for range messages {
						st.Send(make([]byte, 10))
					}
					if test.goesOn {
						<-ctx.Done()
					}
					return nil
				})
				ctx, cancel := context.WithCancelCause(t.Context())
				st := c.mustOpenRaw(ctx, t)
				for i := range test.recv {
					if _, err := st.Recv(); err != nil && (i < messages || err != io.EOF) {
						t.Errorf("Recv %d: %v", i, err)
					}
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := len(w.ends) == 1; got != test.atOnce {
					t.Errorf("told of the end: %t, want %t", got, test.atOnce)
				}
				cancel(errEnough)
				synctest.Wait()
				select {
				case err := <-w.ends:
					if err != test.want {
						t.Errorf("told of %v", err)
					}
				default:
					t.Error("nobody was told of the end")
				}
				if n := w.after.Load(); n != 0 || len(w.ends) != 0 {
					t.Errorf("told of %d things after the end, and of %d more ends", n, len(w.ends))
				}
				if n := w.received.Load(); n != int64(min(test.recv, messages)) {
					t.Errorf("told of %d messages", n)
				}
				c.idleAfter(t, 0)
			})
		})
	}
}

// The end of the messages comes behind one that is being sent, however long that takes.
func TestTheEndOfTheMessagesWaitsForThoseBeforeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, nil)
		p := c.knock(t, n)
		p.introduceAs(t, host, nativeFeatures)
		conn := n.Connection(host)
		if err := conn.WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		st, err := conn.OpenStream(t.Context(), "soup.Eat", nil)
		if err != nil {
			t.Fatal(err)
		}
		open := p.next(t)
		p.send(t, message{MuxID: open.MuxID, Op: OpAckMux, DeadlineMS: minStreamWindow})
		synctest.Wait()
		sent := make(chan error, 1)
		go func() { sent <- st.Send(make([]byte, 3*pieceThreshold)) }()
		synctest.Wait() // nobody reads it yet
		if err := st.CloseSend(); err != nil {
			t.Error(err)
		}
		for {
			m := p.next(t)
			if m.Op == OpPiece && m.MuxID == open.MuxID {
				p.send(t, message{Seq: uint32(len(m.Payload)), Op: OpAckPieces, Flags: FlagCRCxxh3})
				if m.Seq == 0 {
					break
				}
			}
			if m.Op == OpMuxClientMsg {
				t.Fatal("the end has come first")
			}
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		if m := p.next(t); m.Op != OpMuxClientMsg || m.Flags&FlagEOF == 0 {
			t.Errorf("the node sent %v %v", m.Op, m.Flags)
		}
		p.socket.Close()
		n.Close()
		synctest.Wait()
	})
}
