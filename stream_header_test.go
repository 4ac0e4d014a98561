package grid

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// headed registers a handler that does something first and then sends everything back, once as one
// that gets channels and once as one that gets a RawStream. It calls f with what opens a stream to it.
func headed(t *testing.T, lacks uint32, first func(ctx context.Context) error, f func(t *testing.T, c *cluster, open func(ctx context.Context) *Stream)) {
	for _, kind := range []string{"channels", "raw"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := startPipes(t, 2, func(i int, o *ManagerOptions) {
					if i == 1 {
						o.lacks = lacks
					}
				})
				if kind == "raw" {
					c.raw(t, func(ctx context.Context, st *RawStream) error {
						if err := first(ctx); err != nil {
							return err
						}
						return echoRaw(ctx, st)
					})
				} else {
					for _, n := range c.nodes {
						err := n.RegisterStreamingHandler(testStream, StreamHandler{InCapacity: 1, Handle: func(ctx context.Context, b []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
							if err := first(ctx); err != nil {
								return NewRemoteErr(err)
							}
							return echoBack(ctx, b, in, out)
						}})
						if err != nil {
							t.Fatal(err)
						}
					}
				}
				f(t, c, func(ctx context.Context) *Stream {
					st, err := c.conn(0, 1).NewStream(ctx, testStream, nil)
					if kind == "raw" {
						st, err = c.openRaw(ctx, nil)
					}
					if err != nil {
						t.Fatal(err)
					}
					return st
				})
				c.idleAfter(t, 0)
			})
		})
	}
}

// A caller that sends nothing before it has the header gets it, also an empty one.
func TestAHeaderIsSentBeforeTheMessages(t *testing.T) {
	for name, want := range map[string]Metadata{"some": {"set": {"1"}, "sent": {"2", "3"}}, "empty": nil} {
		t.Run(name, func(t *testing.T) {
			headed(t, 0, func(ctx context.Context) error {
				if want != nil {
					if err := SetHeader(ctx, Metadata{"set": {"1"}, "sent": {"no"}}); err != nil {
						t.Error(err)
					}
				}
				if err := SendHeader(ctx, Metadata{"sent": want["sent"]}); err != nil {
					t.Error(err)
				}
				if err := SetHeader(ctx, Metadata{"late": {"x"}}); err != errHeaderSent {
					t.Errorf("SetHeader after SendHeader: %v", err)
				}
				if err := SendHeader(ctx, nil); err != errHeaderSent {
					t.Errorf("SendHeader again: %v", err)
				}
				return nil
			}, func(t *testing.T, _ *cluster, open func(ctx context.Context) *Stream) {
				ctx, answer := WithAnswerMetadata(t.Context())
				st := open(ctx)
				soon, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				for range 2 {
					if got, err := st.WaitForHeader(soon); err != nil || !sameMetadata(got, want) {
						t.Errorf("header %v, %v, want %v", got, err, want)
					}
				}
				if got := answer.Header(); !sameMetadata(got, want) {
					t.Errorf("the context has the header %v, want %v", got, want)
				}
				if err := st.Send([]byte("hi")); err != nil {
					t.Error(err)
				}
				recvWant(t, st, "hi")
				_ = st.CloseSend()
				recvEnds(t, st, io.EOF)
				if got := st.Header(); !sameMetadata(got, want) {
					t.Errorf("at the end, the header is %v, want %v", got, want)
				}
			})
		})
	}
}

// A peer that does not know of headers ahead of the messages gets them with the first, as ever.
func TestAHeaderForAnOlderNodeComesWithTheFirstMessage(t *testing.T) {
	for name, test := range map[string]struct {
		lacks uint32
		want  Metadata
	}{
		"no headers": {featureHeaders, Metadata{"a": {"b"}}},
		"no answers": {featureAnswers, nil},
		"original":   {nativeFeatures, nil},
	} {
		t.Run(name, func(t *testing.T) {
			headed(t, test.lacks, func(ctx context.Context) error {
				if err := SendHeader(ctx, Metadata{"a": {"b"}}); err != nil {
					t.Error(err)
				}
				if err := SetHeader(ctx, Metadata{"late": {"x"}}); err != errHeaderSent {
					t.Errorf("SetHeader after SendHeader: %v", err)
				}
				return nil
			}, func(t *testing.T, _ *cluster, open func(ctx context.Context) *Stream) {
				st := open(t.Context())
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if got, err := st.WaitForHeader(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("before the first message: %v, %v", got, err)
				}
				_ = st.Send([]byte("hi"))
				if got, err := st.WaitForHeader(t.Context()); err != nil || !sameMetadata(got, test.want) {
					t.Errorf("header %v, %v, want %v", got, err, test.want)
				}
				recvWant(t, st, "hi")
				_ = st.CloseSend()
				recvEnds(t, st, io.EOF)
			})
		})
	}
}

// WaitForHeader waits for whatever says that there is no header, or that none comes.
func TestWaitForHeaderEndsWithItsStream(t *testing.T) {
	errEnough := errors.New("enough")
	for name, test := range map[string]struct {
		handle func(st *RawStream) error
		ends   func(st *Stream, cancel context.CancelCauseFunc)
		want   error
		header Metadata
	}{
		"a message":           {handle: func(st *RawStream) error { st.Send(nil); st.Recv(); return nil }},
		"a return":            {handle: func(*RawStream) error { return nil }},
		"an error":            {handle: func(*RawStream) error { return Errorf(NotFound, "none") }, want: NotFound},
		"an error with it":    {handle: func(st *RawStream) error { st.SetHeader(Metadata{"a": {"b"}}); return errEnough }, header: Metadata{"a": {"b"}}},
		"the context's end":   {ends: func(_ *Stream, cancel context.CancelCauseFunc) { cancel(errEnough) }, want: errEnough},
		"Cancel":              {ends: func(st *Stream, _ context.CancelCauseFunc) { st.Cancel(errEnough) }, want: errEnough},
		"the messages' end":   {handle: func(st *RawStream) error { st.CloseSend(); return errEnough }, want: RemoteErr("enough")},
		"one sent too late":   {handle: func(st *RawStream) error { st.CloseSend(); return st.SendHeader(nil) }, want: RemoteErr(errMessagesEnded.Error())},
		"one that is invalid": {handle: func(st *RawStream) error { return SendHeader(st.Context(), Metadata{"": {"x"}}) }, want: RemoteErr("grid: invalid metadata: a key is empty")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := startPipes(t, 2, nil)
				gate := make(chan struct{})
				c.raw(t, func(ctx context.Context, st *RawStream) error {
					if test.handle == nil {
						<-ctx.Done()
						return nil
					}
					<-gate
					return test.handle(st)
				})
				ctx, cancel := context.WithCancelCause(t.Context())
				st := c.mustOpenRaw(ctx, t)
				short, stop := context.WithTimeoutCause(t.Context(), time.Second, errEnough)
				defer stop()
				if _, err := st.WaitForHeader(short); err != errEnough {
					t.Errorf("got %v for a context that ended", err)
				}
				long, stop := context.WithTimeout(context.Background(), time.Minute)
				defer stop()
				var waits sync.WaitGroup
				for range 2 {
					waits.Go(func() {
						header, err := st.WaitForHeader(long)
						if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) || !sameMetadata(header, test.header) {
							t.Errorf("got %v, %v, want %v", header, err, test.want)
						}
					})
				}
				synctest.Wait()
				close(gate)
				if test.ends != nil {
					test.ends(st, cancel)
				}
				waits.Wait()
				cancel(nil)
				c.idleAfter(t, 0)
			})
		})
	}
	var none *Stream
	if _, err := none.WaitForHeader(t.Context()); !errors.Is(err, ErrDisconnected) {
		t.Errorf("no stream: %v", err)
	}
	var noContext context.Context
	if _, err := none.WaitForHeader(noContext); err != errNilContext {
		t.Errorf("no context: %v", err)
	}
}

// What a handler's side sends as a header, and what it must not.
func TestAHeaderComesOnceAndFirst(t *testing.T) {
	md, err := Metadata{"a": {"b"}}.encode()
	if err != nil {
		t.Fatal(err)
	}
	header := message{Op: OpMuxServerHeader, metadata: (&answerPart{header: md}).encode()}
	empty := message{Op: OpMuxServerHeader}
	one := message{Op: OpMuxServerMsg, Payload: []byte("a")}
	last := message{Op: OpMuxServerMsg, Flags: FlagEOF}
	withAll := header
	withAll.metadata = (&answerPart{header: md, trailer: md, code: NotFound, details: md}).encode()
	withAll.Flags, withAll.Payload = FlagEOF|FlagPayloadIsErr, []byte("text")
	for name, test := range map[string]streamScript{
		"one":                   {nativeFeatures, []message{header, one, last}, []error{nil, io.EOF}, false},
		"behind credit":         {nativeFeatures, []message{{Op: OpUnblockClMux, DeadlineMS: 100}, header, last}, []error{io.EOF}, false},
		"with more than that":   {nativeFeatures, []message{withAll, one, last}, []error{nil, io.EOF}, false},
		"again":                 {nativeFeatures, []message{header, header}, []error{errLateHeader}, true},
		"an empty one again":    {nativeFeatures, []message{header, empty}, []error{errLateHeader}, true},
		"behind a message":      {nativeFeatures, []message{one, empty}, []error{errLateHeader}, true},
		"behind the messages":   {nativeFeatures, []message{{Op: OpMuxServerEnd}, header}, []error{errLateHeader}, true},
		"out of order":          {nativeFeatures, []message{{Op: OpMuxServerHeader, Seq: 5}}, []error{ErrIncorrectSequence}, true},
		"one that nobody knows": {nativeFeatures &^ featureHeaders, []message{header, one}, []error{ErrIncorrectSequence}, true},
	} {
		t.Run(name, func(t *testing.T) {
			test.play(t, header, featureHeaders, func(st *Stream) {
				if sent := test.sends[0].metadata; !test.canceled && sent != nil && st.Header().Get("a") != "b" || st.Trailer() != nil {
					t.Errorf("header %v, trailer %v", st.Header(), st.Trailer())
				}
			})
		})
	}
}

// startUnread starts a node for a peer that does not read, so that what the node sends to it has no room.
func startUnread(t *testing.T, interceptors ...Interceptor) (*cluster, *fakePeer) {
	t.Helper()
	c := newPipes(1)
	n, host := startForFake(t, c, func(o *ManagerOptions) {
		o.Limits = Limits{MaxQueuedBytes: 4 << 10, WriteTimeout: time.Hour, PeerTimeout: time.Hour}
		o.Interceptors = interceptors
	})
	err := n.HandleStream("fill", func(_ context.Context, st *RawStream) error {
		for range 10 {
			st.Send(make([]byte, 1<<10))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	p := c.knock(t, n)
	p.introduceAs(t, host, nativeFeatures)
	if err := n.Connection(host).WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.openNamed(t, 1001, "fill")
	return c, p
}

// openNamed opens a stream to a method.
func (p *fakePeer) openNamed(t *testing.T, id uint64, name string) {
	t.Helper()
	to, err := calledMethods.to(name)
	if err != nil {
		t.Fatal(err)
	}
	p.send(t, message{MuxID: id, Op: OpConnectMux, Seq: 1 << 20, Handler: HandlerNamed, subroute: &to.id})
	synctest.Wait()
}

// nextOf reads until a message of a stream comes, besides that it is accepted.
func (p *fakePeer) nextOf(t *testing.T, id uint64) message {
	t.Helper()
	for {
		if m := p.next(t); m.MuxID == id && m.Op != OpAckMux {
			return m
		}
	}
}

// A handler that gives up sending its header, because there is no room, sends it with its first message.
func TestSendHeaderGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := startUnread(t)
		errEnough := errors.New("enough")
		gaveUp := make(chan error, 1)
		err := c.nodes[0].HandleStream("soup.Eat", func(ctx context.Context, st *RawStream) error {
			ctx, cancel := context.WithTimeoutCause(ctx, time.Second, errEnough)
			defer cancel()
			gaveUp <- SendHeader(ctx, Metadata{"a": {"b"}})
			if err := st.SetHeader(Metadata{"late": {"x"}}); err != errHeaderSent {
				t.Errorf("SetHeader: %v", err)
			}
			return st.Send([]byte("hi"))
		})
		if err != nil {
			t.Fatal(err)
		}
		p.openNamed(t, 1003, "soup.Eat")
		if err := <-gaveUp; err != errEnough {
			t.Errorf("SendHeader: %v", err)
		}
		m := p.nextOf(t, 1003)
		part, err := several.readAnswerPart(m.metadata)
		if md, _ := decodeMetadata(part.header); m.Op != OpMuxServerMsg || string(m.Payload) != "hi" || err != nil || md.Get("a") != "b" {
			t.Errorf("the node sent %v %q with %v, %v", m.Op, m.Payload, md, err)
		}
		p.socket.Close()
		c.nodes[0].Close()
		synctest.Wait()
	})
}

// A message that was not sent leaves the header as it was, also one that is still empty: more can be set,
// and be sent ahead.
func TestAMessageGivenUpLeavesTheHeaderOpen(t *testing.T) {
	for name, before := range map[string]Metadata{"nothing set": nil, "something set": {"a": {"b"}}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, p := startUnread(t)
				errEnough := errors.New("enough")
				sent := make(chan struct{})
				err := c.nodes[0].HandleStream("soup.Eat", func(ctx context.Context, st *RawStream) error {
					defer close(sent)
					if before != nil {
						if err := st.SetHeader(before); err != nil {
							t.Error(err)
						}
					}
					ctx, cancel := context.WithTimeoutCause(ctx, time.Second, errEnough)
					defer cancel()
					if err := st.SendCopy(ctx, []byte("hi")); err != errEnough {
						t.Errorf("SendCopy: %v", err)
					}
					if err := st.SetHeader(Metadata{"c": {"d"}}); err != nil {
						t.Errorf("SetHeader: %v", err)
					}
					if err := st.SendHeader(nil); err != nil {
						t.Errorf("SendHeader: %v", err)
					}
					return st.Send([]byte("hi"))
				})
				if err != nil {
					t.Fatal(err)
				}
				p.openNamed(t, 1003, "soup.Eat")
				time.Sleep(2 * time.Second) // nobody reads
				header := p.nextOf(t, 1003)
				part, err := several.readAnswerPart(header.metadata)
				md, _ := decodeMetadata(part.header)
				want := before.Clone()
				if want == nil {
					want = Metadata{}
				}
				want["c"] = []string{"d"}
				if header.Op != OpMuxServerHeader || err != nil || !sameMetadata(md, want) {
					t.Errorf("the node sent %v with %v, %v, want %v", header.Op, md, err, want)
				}
				if m := p.nextOf(t, 1003); m.Op != OpMuxServerMsg || m.metadata != nil {
					t.Errorf("then the node sent %v with %q", m.Op, m.metadata)
				}
				<-sent
				p.socket.Close()
				c.nodes[0].Close()
				synctest.Wait()
			})
		})
	}
}

// A message that is too large only together with the header fails alone, and leaves the header to the
// next one.
func TestAHeaderMayMakeAMessageTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, func(_ int, o *ManagerOptions) { o.Limits.MaxMessageSize = 64 << 10 })
		large := make([]byte, 64<<10-maxOverhead)
		c.raw(t, func(ctx context.Context, st *RawStream) error {
			if err := st.SetHeader(Metadata{"a": {"b"}}); err != nil {
				t.Error(err)
			}
			for range 3 { // which would take all credit
				if err := st.Send(large); !errors.Is(err, ErrMessageTooLarge) {
					t.Errorf("the first message, with the header: %v", err)
				}
			}
			if err := st.SetHeader(Metadata{"c": {"d"}}); err != nil {
				t.Errorf("SetHeader after a message that was not sent: %v", err)
			}
			for _, b := range [][]byte{[]byte("small"), large} {
				if err := st.SendCopy(ctx, b); err != nil {
					t.Error(err)
				}
			}
			return nil
		})
		st := c.mustOpenRaw(t.Context(), t)
		recvWant(t, st, "small")
		recvWant(t, st, string(large))
		recvEnds(t, st, io.EOF)
		if got := st.Header(); !sameMetadata(got, Metadata{"a": {"b"}, "c": {"d"}}) {
			t.Errorf("the header is %v", got)
		}
		c.idleAfter(t, 0)
	})
}

// Whoever is first, the header or a message: no header is lost, or comes behind a message.
func TestAHeaderAndMessagesMayBeSentAtOnce(t *testing.T) {
	c := startCluster(t, 2, nil)
	handle := func(ctx context.Context, send func(b []byte)) {
		var senders sync.WaitGroup
		defer senders.Wait()
		for range 2 {
			senders.Go(func() { send([]byte("a")) })
		}
		senders.Go(func() {
			if err := SendHeader(ctx, Metadata{"a": {"b"}}); err == nil {
				_ = SetTrailer(ctx, Metadata{"sent": {"yes"}})
			} else if err != errHeaderSent {
				t.Errorf("SendHeader: %v", err)
			}
		})
	}
	if err := c.nodes[1].HandleStream("raw", func(ctx context.Context, st *RawStream) error {
		handle(ctx, func(b []byte) { st.Send(b) })
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.nodes {
		err := n.RegisterStreamingHandler(testStream, StreamHandler{Handle: func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
			handle(ctx, func(b []byte) { out <- b })
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 200 {
		st, err := c.conn(0, 1).OpenStream(t.Context(), "raw", nil)
		if i%2 == 0 {
			st, err = c.conn(0, 1).NewStream(t.Context(), testStream, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Recv(); err != nil {
			t.Fatal(err)
		}
		header := st.Header().Get("a")
		if all, err := recvAll(st); len(all) != 1 || err != io.EOF {
			t.Fatalf("%d more messages, %v", len(all), err)
		}
		if sent := st.Trailer().Get("sent") == "yes"; sent != (header == "b") {
			t.Errorf("a header was sent: %t; with the first message there was %q", sent, header)
		}
	}
	c.waitIdle(t)
}

// What comes for a stream that has just ended is not taken for the answer to the next call with the
// same context.
func TestAnAnswerIsOfTheLastStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		c.raw(t, echoRaw)
		ctx, answer := WithAnswerMetadata(t.Context())
		first := c.mustOpenRaw(ctx, t)
		first.Cancel(nil)
		second := c.mustOpenRaw(ctx, t)
		md, err := Metadata{"a": {"b"}}.encode()
		if err != nil {
			t.Fatal(err)
		}
		part := (&answerPart{header: md, trailer: md}).encode()
		first.mux.deliver(&message{Op: OpMuxServerMsg, Flags: FlagEOF, metadata: part}, time.Now()) // the reader was faster
		first.mux.headerCame(&message{Op: OpMuxServerHeader, metadata: part})
		if answer.Header() != nil || answer.Trailer() != nil {
			t.Errorf("header %v, trailer %v", answer.Header(), answer.Trailer())
		}
		_ = second.CloseSend()
		recvEnds(t, second, io.EOF)
		c.idleAfter(t, 0)
	})
}
