package grid

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// words yields values of an MSS each.
func words(all ...string) iter.Seq[*MSS] {
	return func(yield func(*MSS) bool) {
		for _, w := range all {
			if !yield(&MSS{"word": w}) {
				return
			}
		}
	}
}

func TestMethodsAnswerWithStreams(t *testing.T) {
	c := startCluster(t, 2, nil)
	conn, there := c.conn(0, 1), c.nodes[1].Manager
	watch := NewStreamMethod[MSS, MSS]("stream.Watch")
	points := NewStreamMethodCodec[point, point]("stream.Points", JSONCodec)
	canceled := make(chan error, 1)
	err := errors.Join(
		watch.Handle(there, func(ctx context.Context, req *MSS, out *Sender[MSS]) error {
			for word := range strings.FieldsSeq(req.Get("words")) {
				if err := out.Send(&MSS{"word": word}); err != nil {
					canceled <- err
					return err
				}
				if word == "wait" {
					<-ctx.Done()
					for { // the end of the context may be a moment ahead
						if err := out.Send(nil); err != nil {
							canceled <- err
							return err
						}
					}
				}
			}
			if text := req.Get("error"); text != "" {
				return errors.New(text)
			}
			return nil
		}, "on"),
		points.Handle(there, func(_ context.Context, req *point, out *Sender[point]) error {
			for i := range req.X {
				if err := out.Send(&point{X: i}); err != nil {
					return err
				}
			}
			return nil
		}),
	)
	if err != nil {
		t.Fatal(err)
	}
	on := conn.Subroute("on")
	collect := func(req *MSS) (got []string, err error) {
		for v, err := range watch.Call(t.Context(), on, req) {
			if err != nil {
				return got, err
			}
			got = append(got, v.Get("word"))
		}
		return got, nil
	}
	if got, err := collect(&MSS{"words": "a b c"}); err != nil || fmt.Sprint(got) != "[a b c]" {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := collect(nil); err != nil || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := collect(&MSS{"words": "a b", "error": "no luck"}); err == nil || err.Error() != "no luck" || fmt.Sprint(got) != "[a b]" {
		t.Errorf("got %v, %v", got, err)
	}
	for v, err := range watch.Call(t.Context(), on, &MSS{"words": "a wait"}) {
		if err != nil {
			t.Fatal(err)
		}
		if v.Get("word") == "wait" {
			break
		}
	}
	if err := <-canceled; !errors.Is(err, context.Canceled) {
		t.Errorf("the handler of a stream that was left gets %v", err)
	}
	n := 0
	for p, err := range points.Call(t.Context(), conn, &point{X: 1000}) {
		if err != nil || p.X != n {
			t.Fatalf("%d is %v, %v", n, p, err)
		}
		n++
	}
	if n != 1000 {
		t.Errorf("%d of 1000 values have come", n)
	}
	for what, c := range map[string]Opener{"nothing": nil, "connection": (*Connection)(nil), "subroute": (*Subroute)(nil)} {
		for v, err := range watch.Call(t.Context(), c, nil) {
			if v != nil || !errors.Is(err, ErrDisconnected) {
				t.Errorf("no %s: %v, %v", what, v, err)
			}
		}
	}
	for _, err := range watch.Call(t.Context(), conn, nil) { // which is not on a subroute
		if !errors.Is(err, ErrUnknownHandler) || !strings.Contains(err.Error(), "grid: stream of stream.Watch at ") {
			t.Errorf("a method that is not there: %v", err)
		}
	}
	st, err := conn.OpenStream(t.Context(), points.Name(), []byte("{"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); err == nil || !strings.HasPrefix(err.Error(), "grid: stream.Points: decode request: ") {
		t.Errorf("a request that is wrong: %v", err)
	}
	c.waitIdle(t)
}

func TestMethodsTakeStreams(t *testing.T) {
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) {
		o.Limits.MaxMessageSize = 64 << 10
	})
	conn, there := c.conn(0, 1), c.nodes[1].Manager
	join := NewUploadMethod[MSS, MSS]("upload.Join")
	stranger := NewUploadMethod[MSS, MSS]("upload.Stranger")
	cut := make(chan error, 1)
	err := errors.Join(
		join.Handle(there, func(_ context.Context, in iter.Seq2[*MSS, error]) (*MSS, error) {
			var all []string
			for v, err := range in {
				if err != nil {
					cut <- err
					return nil, err
				}
				switch word := v.Get("word"); word {
				case "enough":
					return &MSS{"all": strings.Join(all, " ")}, nil
				case "fail":
					return nil, errors.New("no luck")
				default:
					all = append(all, word)
				}
			}
			return &MSS{"all": strings.Join(all, " ")}, nil
		}),
		there.HandleStream(stranger.Name(), func(_ context.Context, st *RawStream) error {
			for range st.All() {
				for range 2 {
					st.Send(msgpMSS(t, &MSS{}))
				}
			}
			return nil
		}),
	)
	if err != nil {
		t.Fatal(err)
	}
	endless := func(yield func(*MSS) bool) {
		for yield(&MSS{"word": "enough"}) {
		}
	}
	for what, test := range map[string]struct {
		values iter.Seq[*MSS]
		want   string
		err    string
	}{
		"three":                 {words("a", "b", "c"), "a b c", ""},
		"none":                  {words(), "", ""},
		"more than is taken":    {endless, "", ""},
		"one that fails":        {words("a", "fail", "b"), "", "no luck"},
		"one that is too large": {words("a", strings.Repeat("x", 65<<10), "b"), "", ErrMessageTooLarge.Error()},
	} {
		got, err := join.Call(t.Context(), conn, test.values)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: %v, %v, want %s", what, got, err, test.err)
			}
		} else if err != nil || got.Get("all") != test.want {
			t.Errorf("%s: %v, %v, want %q", what, got, err, test.want)
		}
		if test.err == ErrMessageTooLarge.Error() {
			if err := <-cut; !errors.Is(err, context.Canceled) {
				t.Errorf("the handler of an upload that was given up gets %v", err)
			}
		}
	}
	if got, err := stranger.Call(t.Context(), conn, words()); got != nil || err != errNoResponse {
		t.Errorf("no response is %v, %v", got, err)
	}
	if got, err := stranger.Call(t.Context(), conn, words("a")); got != nil || err != errResponses {
		t.Errorf("two responses are %v, %v", got, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	leave := func(yield func(*MSS) bool) {
		for i := 0; yield(&MSS{"word": "a"}); i++ {
			if i == 3 {
				cancel(errors.New("no time"))
			}
		}
	}
	if _, err := join.Call(ctx, conn, leave); err == nil || err.Error() != "no time" {
		t.Errorf("a context that ends: %v", err)
	}
	if err := <-cut; !errors.Is(err, context.Canceled) {
		t.Errorf("the handler gets %v", err)
	}
	func() {
		defer func() { _ = recover() }()
		join.Call(t.Context(), conn, func(func(*MSS) bool) { panic("values panic") })
		t.Error("the panic is gone")
	}()
	if err := <-cut; !errors.Is(err, context.Canceled) {
		t.Errorf("the handler of an upload whose values panic gets %v", err)
	}
	c.waitIdle(t)
}

// msgpMSS returns a message with a value.
func msgpMSS(t *testing.T, m *MSS) []byte {
	t.Helper()
	b, err := m.MarshalMsg(nil)
	if err != nil {
		t.Error(err)
	}
	return b
}

func TestMethodsWithStreamsBothWays(t *testing.T) {
	c := startCluster(t, 2, nil)
	conn, there := c.conn(0, 1), c.nodes[1].Manager
	upper := NewDuplexMethod[MSS, Bytes]("duplex.Upper")
	plain := NewDuplexMethodCodec[[]byte, []byte]("duplex.Plain", plainCodec{})
	half := make(chan []string, 1)
	err := errors.Join(
		upper.Handle(there, func(ctx context.Context, st *ServerStream[MSS, Bytes]) error {
			for v, err := range st.All() {
				if err != nil {
					return err
				}
				b := Bytes(strings.ToUpper(v.Get("word")))
				if err := st.Send(&b); err != nil {
					return err
				}
			}
			return nil
		}),
		plain.Handle(there, func(ctx context.Context, st *ServerStream[[]byte, []byte]) error {
			if err := errors.Join(SetHeader(ctx, Metadata{"head": {"h"}}), SetTrailer(ctx, Metadata{"trail": {"t"}})); err != nil {
				return err
			}
			first, err := st.Recv()
			if err != nil {
				return err
			}
			if err := st.Send(first); err != nil {
				return err
			}
			st.CloseSend()
			if err := st.Send(first); err == nil {
				return errors.New("something can be sent after CloseSend")
			}
			var rest []string
			for v, err := range st.All() {
				if err != nil {
					return err
				}
				rest = append(rest, string(*v))
			}
			half <- rest
			return nil
		}),
	)
	if err != nil {
		t.Fatal(err)
	}
	st, err := upper.Call(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"one", "two"} {
		if err := st.Send(&MSS{"word": word}); err != nil {
			t.Fatal(err)
		}
		if b, err := st.Recv(); err != nil || string(*b) != strings.ToUpper(word) {
			t.Errorf("%s: %v, %v", word, b, err)
		}
	}
	if err := st.CloseSend(); err != nil {
		t.Error(err)
	}
	if b, err := st.Recv(); b != nil || err != io.EOF {
		t.Errorf("the end is %v, %v", b, err)
	}
	<-st.Done()
	if err := st.Err(); err != nil {
		t.Error(err)
	}

	other, err := plain.Call(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	send := func(s string) {
		b := []byte(s)
		if err := other.Send(&b); err != nil {
			t.Fatal(err)
		}
	}
	send("first")
	var got []string
	for v, err := range other.All() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(*v))
	}
	if !slices.Equal(got, []string{"first"}) {
		t.Errorf("got %q", got)
	}
	send("second") // the handler goes on receiving
	send("third")
	other.CloseSend()
	if rest := <-half; !slices.Equal(rest, []string{"second", "third"}) {
		t.Errorf("after the end of its messages, the handler gets %q", rest)
	}
	<-other.Done()
	if err := other.Err(); err != nil {
		t.Error(err)
	}
	if h, tr := other.Header().Get("head"), other.Trailer().Get("trail"); h != "h" || tr != "t" {
		t.Errorf("the header is %q, the trailer %q", h, tr)
	}

	odd, err := plain.Call(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	wrong := []byte("wrong")
	if err := odd.Send(&wrong); err != nil {
		t.Fatal(err)
	}
	if _, err := odd.Recv(); err == nil || err.Error() != "grid: duplex.Plain: decode message: not plain" {
		t.Errorf("a message that is wrong: %v", err)
	}

	var none *ClientStream[MSS, Bytes]
	if _, err := none.Recv(); !errors.Is(err, ErrDisconnected) || none.Send(nil) == nil || none.CloseSend() == nil || none.Err() == nil || none.Header() != nil || none.Trailer() != nil {
		t.Errorf("no stream: %v", err)
	}
	for _, err := range none.All() {
		if !errors.Is(err, ErrDisconnected) {
			t.Errorf("no stream: %v", err)
		}
	}
	<-none.Done()
	c.waitIdle(t)
}

// What the messages of a stream are decoded to counts only while the handler has them: any number of
// them fits, and one that is too large for the quota does not.
func TestMessagesOfMethodsAreBounded(t *testing.T) {
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) {
		o.Limits.MaxMessageSize, o.Limits.MaxStreamBytes = 64<<10, 256<<10
	})
	conn, there := c.conn(0, 1), c.nodes[1].Manager
	count := NewUploadMethodCodec[[]point, point]("bounded.Count", JSONCodec)
	err := count.Handle(there, func(_ context.Context, in iter.Seq2[*[]point, error]) (*point, error) {
		n := 0
		for v, err := range in {
			if err != nil {
				return nil, err
			}
			n += len(*v)
		}
		return &point{X: n}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	lists := func(n, each int) iter.Seq[*[]point] {
		return func(yield func(*[]point) bool) {
			for range n {
				if list := make([]point, each); !yield(&list) {
					return
				}
			}
		}
	}
	if got, err := count.Call(t.Context(), conn, lists(200, 50)); err != nil || got.X != 200*50 { // 7 MB in all
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := count.Call(t.Context(), conn, lists(1, 3000)); err == nil || !strings.Contains(err.Error(), "MaxStreamBytes") {
		t.Errorf("a list that takes too much memory: %v, %v", got, err)
	}
	c.waitIdle(t)
}

// A handler may end its messages before it returns. The call has its error all the same, and leaves no
// stream behind.
func TestCallsLastUntilTheHandlerHasReturned(t *testing.T) {
	noLuck := errors.New("no luck")
	for name, result := range map[string]error{"without an error": nil, "with one": noLuck} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := startPipes(t, 2, nil)
				conn, there := c.conn(0, 1), c.nodes[1].Manager
				watch := NewStreamMethod[MSS, MSS]("half.Watch")
				count := NewUploadMethod[MSS, MSS]("half.Count")
				silent := NewUploadMethod[MSS, MSS]("half.Silent")
				handle := func(messages int) func(ctx context.Context, st *RawStream) error {
					return func(_ context.Context, st *RawStream) error {
						for range messages {
							if err := st.Send(msgpMSS(t, &MSS{"word": "a"})); err != nil {
								t.Error(err)
							}
						}
						st.CloseSend()
						if _, err := recvAll(st); err != io.EOF {
							t.Errorf("the handler's input ended with %v", err)
						}
						time.Sleep(time.Second)
						return result
					}
				}
				err := errors.Join(
					there.HandleStream(watch.Name(), handle(2)),
					there.HandleStream(count.Name(), handle(1)),
					there.HandleStream(silent.Name(), handle(0)),
				)
				if err != nil {
					t.Fatal(err)
				}
				var got []error
				for v, err := range watch.Call(t.Context(), conn, nil) {
					if (v == nil) != (err != nil) {
						t.Errorf("got %v and %v", v, err)
					}
					got = append(got, err)
				}
				want := []error{nil, nil, result}
				if result == nil {
					want = want[:2]
				}
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("the stream brought %v, want %v", got, want)
				}
				if resp, err := count.Call(t.Context(), conn, words("a", "b")); fmt.Sprint(err) != fmt.Sprint(result) || (resp == nil) != (err != nil) {
					t.Errorf("the upload returned %v, %v", resp, err)
				}
				if resp, err := silent.Call(t.Context(), conn, words("a")); resp != nil || fmt.Sprint(err) != fmt.Sprint(cmp.Or(result, errNoResponse)) {
					t.Errorf("the upload without a response returned %v, %v", resp, err)
				}
				c.idleAfter(t, 0)
			})
		})
	}
}
