package grid

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gridmesh/grid/internal/testkit"
)

// recordedMethod is the method of the recorded conversation of a request on a subroute.
const recordedMethod = transcriptSubroute

// A call by name is, byte for byte, what a node of the original sends for a handler on a subroute, and
// what it answers.
func TestMethodsAreSubroutesOfTheOriginal(t *testing.T) {
	if transcriptSingle != HandlerNamed {
		t.Fatalf("the conversations are recorded with handler %d", transcriptSingle)
	}
	for _, s := range loadWireVectors(t).Subroutes {
		to := target{id: HandlerID(s.Handler), route: s.Route}
		if id := to.wire(); string(id[:]) != string(s.ID) {
			t.Errorf("%q is %x on the wire, want %x", s.Route, id, s.ID)
		}
	}
	sub := func(_ context.Context, b []byte) ([]byte, error) { return append([]byte("sub:"), b...), nil }
	method := NewMethodCodec[[]byte, []byte](recordedMethod, plainCodec{})
	for _, script := range loadTranscripts(t) {
		if script.Name != "single request on a subroute" {
			continue
		}
		for name, register := range map[string]func(m *Manager) error{
			"raw": func(m *Manager) error { return m.Handle(recordedMethod, sub) },
			"typed": func(m *Manager) error {
				return method.Handle(m, func(ctx context.Context, b *[]byte) (*[]byte, error) {
					out, err := sub(ctx, *b)
					return &out, err
				})
			},
		} {
			t.Run("the node answers, "+name, func(t *testing.T) {
				m, p := dialNode(t)
				if err := register(m); err != nil {
					t.Fatal(err)
				}
				p.handshake(m, generations[0])
				p.play(script, false)
				p.expectEnd(m)
			})
		}
		for name, call := range map[string]func(context.Context, *Connection) ([]byte, error){
			"raw": func(ctx context.Context, c *Connection) ([]byte, error) {
				return c.Call(ctx, recordedMethod, []byte("sub"))
			},
			"on a subroute": func(ctx context.Context, c *Connection) ([]byte, error) {
				return c.Subroute("").Call(ctx, recordedMethod, []byte("sub"))
			},
			"typed": func(ctx context.Context, c *Connection) ([]byte, error) {
				b := []byte("sub")
				resp, err := method.Call(ctx, c, &b)
				if err != nil {
					return nil, err
				}
				return *resp, nil
			},
		} {
			t.Run("the node calls, "+name, func(t *testing.T) {
				m, p := acceptNode(t)
				p.handshake(m, generations[0])
				conn := m.Connection(p.Name)
				ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
				defer cancel()
				if err := conn.WaitForConnect(ctx); err != nil {
					t.Fatal(err)
				}
				result := make(chan error, 1)
				go func() { result <- outcome("sub:sub", nil)(call(t.Context(), conn)) }()
				p.play(script, true)
				if err := <-result; err != nil {
					t.Error(err)
				}
				p.expectEnd(m)
			})
		}
	}
}

// plainCodec is for values of []byte.
type plainCodec struct{}

func (plainCodec) Append(b []byte, v any) ([]byte, error) { return append(b, *v.(*[]byte)...), nil }
func (plainCodec) DecodedSize(b []byte, v any) (int, error) {
	return len(b) + len(*v.(*[]byte)), nil // it knows the type
}

func (plainCodec) Decode(b []byte, v any) error {
	if string(b) == "wrong" {
		return errors.New("not plain")
	}
	*v.(*[]byte) = append([]byte{}, b...)
	return nil
}

// Two names of which the hashes are the same cannot be told apart by their callers.
func TestNamesWithTheSameHashAreRefused(t *testing.T) {
	node := typedNode(t)
	nothing := func(context.Context, []byte) ([]byte, error) { return nil, nil }
	if err := node.Handle("kv.Get", nothing); err != nil {
		t.Fatal(err)
	}
	weak := makeRouteID(HandlerNamed, "kv.Get") // what a hash that is no good makes of everything
	add := func(*registry, *routeID) { t.Error("the second is registered") }
	for name, want := range map[string]string{
		"kv.Put": "handler already exists: kv.Put has the same hash on the wire as kv.Get",
		"kv.Get": "handler already exists: kv.Get",
	} {
		err := node.publish(target{id: HandlerNamed, route: name}, &weak, add)
		if !errors.Is(err, ErrHandlerAlreadyExists) || !strings.HasSuffix(err.Error(), strings.TrimPrefix(want, "handler already exists")) {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	if err := node.Handle("kv.Put", nothing); err != nil {
		t.Errorf("a name with a hash of its own: %v", err)
	}
}

func TestMethodsAreRegisteredOnce(t *testing.T) {
	node := typedNode(t)
	nothing := func(context.Context, []byte) ([]byte, error) { return nil, nil }
	method := NewMethod[MSS, MSS]("typed")
	handle := func(context.Context, *MSS) (*MSS, error) { return nil, nil }
	for _, test := range []struct {
		name     string
		register func() error
		is       error
		text     string
	}{
		{"a first method", func() error { return node.Handle("kv.Get", nothing) }, nil, ""},
		{"another", func() error { return node.Handle("kv.Put", nothing) }, nil, ""},
		{"the first again", func() error { return node.Handle("kv.Get", nothing) }, ErrHandlerAlreadyExists, "kv.Get"},
		{"the first as a subroute", func() error {
			return node.RegisterSingleHandlerContext(HandlerNamed, nothing, "kv.Get")
		}, ErrHandlerAlreadyExists, "kv.Get"},
		{"the first with values", func() error {
			return NewMethod[MSS, MSS]("kv.Get").Handle(node, handle)
		}, ErrHandlerAlreadyExists, "kv.Get"},
		{"the name on a subroute of another ID", func() error {
			return node.RegisterSingleHandlerContext(testSingle, nothing, "kv.Get")
		}, nil, ""},
		{"the ID without a name", func() error { return node.RegisterSingleHandlerContext(HandlerNamed, nothing) }, nil, ""},
		{"a method with values", func() error { return method.Handle(node, handle) }, nil, ""},
		{"the same on a subroute", func() error { return method.Handle(node, handle, "disks", "sda") }, nil, ""},
		{"the same by its whole name", func() error { return node.Handle("disks/sda/typed", nothing) }, ErrHandlerAlreadyExists, "disks/sda/typed"},
		{"no function", func() error { return node.Handle("kv.None", nil) }, errNilHandler, "kv.None"},
		{"no function with values", func() error { return method.Handle(node, nil) }, errNilHandler, "typed"},
		{"no node", func() error { return (*Manager)(nil).Handle("kv.Get", nothing) }, errNilManager, "kv.Get"},
		{"no node, with values", func() error { return method.Handle(nil, handle) }, errNilManager, "typed"},
	} {
		err := test.register()
		if !errors.Is(err, test.is) || err != nil && !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: %v, want %v that has %q", test.name, err, test.is, test.text)
		}
	}
}

// What could not be shown is no name: neither where it is registered nor where it is called.
func TestNamesThatAreNone(t *testing.T) {
	c := startCluster(t, 2, nil)
	conn := c.conn(0, 1)
	nothing := func(context.Context, []byte) ([]byte, error) { return nil, nil }
	for name, why := range map[string]string{
		"":                       "the name is empty",
		strings.Repeat("n", 256): "the name has 256 bytes, at most 255 are allowed",
		"kv\xff":                 "the name is not UTF-8",
		"kv Get":                 "' ' cannot be in a name",
		"kv\nGet":                `'\n' cannot be in a name`,
		"kv\u202eGet":            `'\u202e' cannot be in a name`,
	} {
		_, called := conn.Call(t.Context(), name, nil)
		_, onSubroute := conn.Subroute("a b").Call(t.Context(), name, nil)
		_, typed := NewMethod[MSS, MSS](name).Call(t.Context(), conn, nil)
		if name != "" && !errors.Is(onSubroute, ErrUnknownHandler) {
			t.Errorf("%q is called on a subroute that is none: %v", name, onSubroute)
		}
		for what, err := range map[string]error{
			"Call":          called,
			"Handle":        c.nodes[1].Handle(name, nothing),
			"Prioritize":    c.nodes[1].Prioritize(PriorityHigh, "kv.Get", name),
			"Method.Call":   typed,
			"Method.Handle": NewMethod[MSS, MSS](name).Handle(c.nodes[1].Manager, func(context.Context, *MSS) (*MSS, error) { return nil, nil }),
		} {
			if err == nil || !strings.Contains(err.Error(), why) {
				t.Errorf("%s of %.20q: %v, want %s", what, name, err, why)
			}
			if strings.HasSuffix(what, "Call") && !errors.Is(err, ErrUnknownHandler) {
				t.Errorf("%s of %.20q: %v is not ErrUnknownHandler", what, name, err)
			}
		}
		if conn.HandlesMethod(name) {
			t.Errorf("the peer has %q", name)
		}
	}
	if p := c.nodes[1].registry.Load().priorities; len(p) != 0 {
		t.Errorf("priorities of methods beside those that are none: %v", p)
	}
	longest := strings.Repeat("ü", 127)
	if err := c.nodes[1].Handle(longest, echoContext); err != nil {
		t.Fatal(err)
	}
	if b, err := conn.Call(t.Context(), longest, []byte("x")); string(b) != "x" || err != nil {
		t.Errorf("the longest name: %q, %v", b, err)
	}
}

func echoContext(_ context.Context, b []byte) ([]byte, error) { return b, nil }

// Everything that shows a call shows its name: at both ends, and nothing shows a subroute or a number in
// its place.
func TestMethodsAreShownByName(t *testing.T) {
	var mu sync.Mutex
	var seen []CallInfo
	note := func(info *CallInfo) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, *info)
	}
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) {
		o.Interceptors = []Interceptor{{
			ClientRequest: func(ctx context.Context, info *CallInfo, req []byte, next RequestFunc) ([]byte, error) {
				note(info)
				return next(ctx, req)
			},
			ServerRequest: func(ctx context.Context, info *CallInfo, b []byte, next ServeRequestFunc) ([]byte, error) {
				note(info)
				return next(ctx, b)
			},
		}}
	})
	here, there, conn := c.nodes[0], c.nodes[1], c.conn(0, 1)
	started, end := make(chan string, 1), make(chan struct{})
	err := errors.Join(
		there.Handle("shown.Echo", func(ctx context.Context, b []byte) ([]byte, error) {
			return fmt.Appendf(b, "%q", GetSubroute(ctx)), nil
		}),
		there.Handle("shown.Fail", func(context.Context, []byte) ([]byte, error) { return nil, errors.New("no luck") }),
		there.Handle("shown.Panic", func(context.Context, []byte) ([]byte, error) { panic("oops") }),
		there.Handle("shown.Wait", func(ctx context.Context, _ []byte) ([]byte, error) {
			started <- GetSubroute(ctx)
			<-end
			return nil, nil
		}),
	)
	if err != nil {
		t.Fatal(err)
	}
	traces := make(chan TraceInfo, 10)
	if err := here.Traces().Subscribe(TraceInternode, traces, t.Context().Done(), nil); err != nil {
		t.Fatal(err)
	}
	if b, err := conn.Call(t.Context(), "shown.Echo", []byte("x")); string(b) != `x""` || err != nil {
		t.Errorf("the answer is %q, %v", b, err)
	}
	if info := <-traces; info.Handler != "grid.shown.Echo" || info.Subroute != "" {
		t.Errorf("the trace is %+v", info)
	}
	want := CallInfo{Method: "shown.Echo", Handler: HandlerNamed, Local: here.host, Remote: there.host, RemoteAddr: conn.Peer().RemoteAddr}
	back := CallInfo{Method: "shown.Echo", Handler: HandlerNamed, Local: there.host, Remote: here.host, RemoteAddr: c.conn(1, 0).Peer().RemoteAddr}
	if want.RemoteAddr == "" || len(seen) != 2 || seen[0] != want || seen[1] != back {
		t.Errorf("interceptors see %+v", seen)
	}
	for range 2 {
		if _, err := conn.Call(t.Context(), "shown.Fail", nil); err == nil || err.Error() != "no luck" {
			t.Errorf("the handler's error is %v", err)
		}
	}
	if _, err := conn.Call(t.Context(), "shown.Panic", nil); err == nil || err.Error() != "handler shown.Panic panicked: oops" {
		t.Errorf("the error of a panic is %v", err)
	}
	if n := there.log.count("handler=shown.Panic"); n != 1 {
		t.Errorf("the panic is logged %d times with the name: %s", n, there.log)
	}
	_, err = conn.Call(t.Context(), "shown.None", nil)
	if want := "grid: call of shown.None at " + there.host + ": unknown handler"; !errors.Is(err, ErrUnknownHandler) || err.Error() != want {
		t.Errorf("the error is %q, want %q", err, want)
	}

	done := make(chan error, 1)
	go func() {
		_, err := conn.Call(t.Context(), "shown.Wait", nil)
		done <- err
	}()
	if sub := <-started; sub != "" {
		t.Errorf("a method's subroute is %q", sub)
	}
	for node, role := range map[*testNode]Role{here: RoleClient, there: RoleServer} {
		eventually(t, "the calls before to be over", func() bool { return len(node.Open()) == 1 })
		open := node.Open()
		if len(open) != 1 || open[0].Name != "shown.Wait" || open[0].Handler != HandlerNamed || open[0].Subroute != "" || open[0].Role != role {
			t.Errorf("open are %+v", open)
		}
		if h := methodStats(node.Stats().Handlers, role, "shown.Wait"); h.InFlight != 1 {
			t.Errorf("the %v counts %+v", role, h)
		}
	}
	close(end)
	if err := <-done; err != nil {
		t.Error(err)
	}
	c.waitIdle(t)

	for node, role := range map[*testNode]Role{here: RoleClient, there: RoleServer} {
		for name, want := range map[string]HandlerStats{
			"shown.Echo":  {Calls: 1},
			"shown.Fail":  {Calls: 2, Errors: failedWith(Unknown, Unknown)},
			"shown.Panic": {Calls: 1, Errors: failedWith(Internal)},
			"shown.Wait":  {Calls: 1},
		} {
			for what, all := range map[string][]HandlerStats{
				"node":       node.Stats().Handlers,
				"connection": map[Role]*Connection{RoleClient: conn, RoleServer: c.conn(1, 0)}[role].HandlerStats(),
			} {
				got := methodStats(all, role, name)
				if got.Calls != want.Calls || got.Errors != want.Errors || got.InFlight != 0 || got.ID != HandlerNamed || got.Subroute != "" || got.Latency.Count() != want.Calls {
					t.Errorf("the %s counts %+v of %s as %v, want %+v", what, got, name, role, want)
				}
			}
		}
		var errs []string
		for _, e := range node.RecentErrors() {
			if e.Role == role {
				errs = append(errs, fmt.Sprintf("%s: %s ×%d", e.Handler, e.Text, e.Count))
			}
		}
		for _, want := range []string{"shown.Fail: no luck ×2", "shown.Panic: handler shown.Panic panicked: oops ×1"} {
			if !strings.Contains(strings.Join(errs, "\n"), want) {
				t.Errorf("recent errors of the %v lack %q: %q", role, want, errs)
			}
		}
	}
	there.Close()
	eventually(t, "the loss", func() bool { return conn.State() != StateConnected })
	_, err = conn.Call(t.Context(), "shown.Echo", nil)
	if want := "grid: call of shown.Echo at " + there.host + ": remote disconnected"; !errors.Is(err, ErrDisconnected) || err.Error() != want {
		t.Errorf("the error is %q, want %q", err, want)
	}
	_, err = conn.Call(t.Context(), "shown.Fail", nil)
	if want := "grid: call of shown.Fail at " + there.host + ": remote disconnected"; !errors.Is(err, ErrDisconnected) || err.Error() != want {
		t.Errorf("the error is %q, want %q", err, want)
	}
}

// methodStats finds the statistics of a method; zero where there are none.
func methodStats(all []HandlerStats, role Role, name string) HandlerStats {
	for _, h := range all {
		if h.Role == role && h.Name == name {
			return h
		}
	}
	return HandlerStats{}
}

// A program that makes up names takes no more memory with each of them, and its calls go on.
func TestNamesThatAreCalledAreBounded(t *testing.T) {
	var m methods
	name := func(i int) string { return fmt.Sprintf("made.up.%d", i) }
	var wg sync.WaitGroup
	first := make([][maxMethods]*route, 4)
	for g := range first {
		wg.Go(func() {
			for i := range maxMethods {
				to, err := m.to(name(i))
				if err != nil {
					t.Error(err)
				}
				first[g][i] = to
			}
		})
	}
	wg.Wait()
	numbers := make(map[int]bool)
	for i := range maxMethods {
		to := first[0][i]
		if again, _ := m.to(name(i)); again != to || first[1][i] != to || first[2][i] != to || first[3][i] != to {
			t.Fatalf("%s has more than one route", to.name)
		}
		if to.number < firstMethod || to.number >= firstMethod+maxMethods || numbers[to.number] || m.name(to.number) != name(i) {
			t.Fatalf("%s has the number %d, which is that of %q", to.name, to.number, m.name(to.number))
		}
		numbers[to.number] = true
	}
	for i := maxMethods; i < maxMethods+10; i++ {
		to, err := m.to(name(i))
		if err != nil || to.number != otherMethods || to.id != makeRouteID(HandlerNamed, name(i)) {
			t.Errorf("%s has the number %d, %v", name(i), to.number, err)
		}
	}
	if n := len(*m.byName.Load()); n != maxMethods || m.name(otherMethods) != "other methods" {
		t.Errorf("%d names are known, at most %d should be", n, maxMethods)
	}
}

// The statistics of methods that have no number are one, and say so.
func TestMethodsWithoutANumberCountTogether(t *testing.T) {
	table := newHandlerTable(nil, calledMethods.name)
	counters := make([]*handlerCounters, otherMethods+1)
	counters[otherMethods] = new(handlerCounters)
	counters[otherMethods].calls.Add(3)
	table.add(nil, counters)
	if got := table.stats(); len(got) != 1 || got[0].Name != "other methods" || got[0].ID != HandlerNamed || got[0].Calls != 3 {
		t.Errorf("the statistics are %+v", got)
	}
}

func TestMethodsOnSubroutes(t *testing.T) {
	c := startCluster(t, 2, nil)
	conn := c.conn(0, 1)
	stat := NewMethod[MSS, MSS]("sub.Stat")
	for _, disk := range []string{"", "sda", "sdb"} {
		err := stat.Handle(c.nodes[1].Manager, func(context.Context, *MSS) (*MSS, error) { return &MSS{"disk": disk}, nil }, "disks", disk)
		if disk == "" {
			err = errors.Join(err, stat.Handle(c.nodes[1].Manager, func(context.Context, *MSS) (*MSS, error) { return &MSS{"disk": "none"}, nil }))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		c    Caller
		want string
	}{
		{conn, "none"},
		{conn.Subroute(""), "none"},
		{conn.Subroute("disks"), ""},
		{conn.Subroute("disks").Subroute("sda"), "sda"},
		{conn.Subroute("disks/sdb"), "sdb"},
	} {
		for range 2 {
			resp, err := stat.Call(t.Context(), test.c, nil)
			if err != nil || resp.Get("disk") != test.want {
				t.Errorf("%v answers %v, %v, want %q", test.c, resp, err, test.want)
			}
		}
		eventually(t, "the peer to have told of the method", func() bool { return stat.HandledBy(test.c) })
	}
	sub := conn.Subroute("disks/sdc")
	if _, err := stat.Call(t.Context(), sub, nil); !errors.Is(err, ErrUnknownHandler) || !strings.Contains(err.Error(), "call of disks/sdc/sub.Stat at") {
		t.Errorf("a disk that is not there: %v", err)
	}
	if stat.HandledBy(sub) || stat.HandledBy(nil) || stat.HandledBy((*Connection)(nil)) || stat.HandledBy((*Subroute)(nil)) {
		t.Error("a method is where it is not")
	}
	for i := range 2 * maxSubrouteMethods {
		name := fmt.Sprintf("sub.N%d", i)
		if _, err := sub.Call(t.Context(), name, nil); !errors.Is(err, ErrUnknownHandler) {
			t.Fatal(err)
		}
		if to, err := sub.toMethod(name); err != nil || to.name != "disks/sdc/"+name {
			t.Errorf("%s leads to %v, %v", name, to, err)
		}
	}
	if n := sub.methods.Load().size; n != maxSubrouteMethods {
		t.Errorf("the subroute knows %d methods, at most %d should it", n, maxSubrouteMethods)
	}
}

// Nobody can be called without a connection, by any name.
func TestMethodsWithoutAConnection(t *testing.T) {
	method := NewMethod[MSS, MSS]("kv.Get")
	for what, c := range map[string]Caller{"nothing": nil, "connection": (*Connection)(nil), "subroute": (*Subroute)(nil)} {
		if _, err := method.Call(t.Context(), c, nil); !errors.Is(err, ErrDisconnected) {
			t.Errorf("no %s: %v", what, err)
		}
	}
	var conn *Connection
	if _, err := conn.Call(t.Context(), "kv.Get", nil); !errors.Is(err, ErrDisconnected) || conn.HandlesMethod("kv.Get") {
		t.Errorf("no connection: %v", err)
	}
	if _, err := conn.Subroute("a").Call(t.Context(), "kv.Get", nil); !errors.Is(err, ErrDisconnected) {
		t.Errorf("no subroute: %v", err)
	}
}

// point is a value that JSONCodec encodes.
type point struct {
	X, Y int
	Text string `json:",omitempty"`
}

func TestMethodsCarryValues(t *testing.T) {
	c := startCluster(t, 2, nil)
	conn, there := c.conn(0, 1), c.nodes[1].Manager
	upper := NewMethod[MSS, Bytes]("values.Upper")
	swap := NewMethodCodec[point, point]("values.Swap", JSONCodec)
	plain := NewMethodCodec[[]byte, []byte]("values.Plain", plainCodec{})
	err := errors.Join(
		upper.Handle(there, func(_ context.Context, req *MSS) (*Bytes, error) {
			switch word := req.Get("word"); word {
			case "":
				return nil, nil
			case "none":
				return nil, (*RemoteErr)(nil)
			case "fail":
				return nil, errors.New("no luck")
			default:
				b := Bytes(strings.ToUpper(word))
				return &b, nil
			}
		}),
		swap.Handle(there, func(_ context.Context, req *point) (*point, error) {
			return &point{X: req.Y, Y: req.X, Text: req.Text}, nil
		}),
		plain.Handle(there, func(_ context.Context, req *[]byte) (*[]byte, error) { return req, nil }),
	)
	if err != nil {
		t.Fatal(err)
	}
	for word, want := range map[string]string{"one": "ONE", "": "", "none": ""} {
		if got, err := upper.Call(t.Context(), conn, &MSS{"word": word}); err != nil || string(*got) != want {
			t.Errorf("%q: %v, %v", word, got, err)
		}
	}
	if _, err := upper.Call(t.Context(), conn, &MSS{"word": "fail"}); err == nil || err.Error() != "no luck" {
		t.Errorf("the handler's error is %v", err)
	}
	if got, err := upper.Call(t.Context(), conn, nil); err != nil || len(*got) != 0 {
		t.Errorf("no request: %v, %v", got, err)
	}
	if got, err := swap.Call(t.Context(), conn, &point{1, 2, "<&\u2028"}); err != nil || *got != (point{2, 1, "<&\u2028"}) {
		t.Errorf("got %v, %v", got, err)
	}
	for what, test := range map[string]struct {
		method, payload, want string
	}{
		"no MessagePack":    {upper.Name(), "\xc1", "grid: values.Upper: decode request: "},
		"another type":      {upper.Name(), "\x93\x01\x02\x03", "grid: values.Upper: decode request: "},
		"more than claimed": {upper.Name(), "\xdf\xff\xff\xff\xff", "grid: values.Upper: decode request: "},
		"no JSON":           {swap.Name(), "{", "grid: values.Swap: decode request: "},
		"deep JSON":         {swap.Name(), strings.Repeat("[", 2000), "grid: values.Swap: decode request: "},
		"nested JSON":       {swap.Name(), strings.Repeat("[", 30) + strings.Repeat("]", 30), "grid: values.Swap: decode request: json: cannot unmarshal"},
		"not for the codec": {plain.Name(), "wrong", "grid: values.Plain: decode request: not plain"},
	} {
		if _, err := conn.Call(t.Context(), test.method, []byte(test.payload)); err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", what, err, test.want)
		}
	}
	wrong := []byte("wrong")
	if err := there.Handle("values.Wrong", func(context.Context, []byte) ([]byte, error) { return wrong, nil }); err != nil {
		t.Fatal(err)
	}
	_, err = NewMethodCodec[[]byte, []byte]("values.Wrong", plainCodec{}).Call(t.Context(), conn, nil)
	if err == nil || err.Error() != "grid: values.Wrong: decode response: not plain" {
		t.Errorf("a response that is wrong: %v", err)
	}
	_, err = NewMethodCodec[func(), point]("values.Func", JSONCodec).Call(t.Context(), conn, nil)
	if err == nil || !strings.HasPrefix(err.Error(), "grid: values.Func: encode request: json: ") {
		t.Errorf("a request that has no encoding: %v", err)
	}
}

// What values take counts before they are decoded, and deep ones are refused, whatever the codec.
func TestValuesOfMethodsAreBounded(t *testing.T) {
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) {
		o.Limits.MaxMessageSize, o.Limits.MaxRequestBytes = 64<<10, 128<<10
	})
	conn, there := c.conn(0, 1), c.nodes[1].Manager
	list := NewMethodCodec[[]point, point]("bounded.List", JSONCodec)
	deep := NewMethod[Bytes, Bytes]("bounded.Deep")
	err := errors.Join(
		list.Handle(there, func(_ context.Context, req *[]point) (*point, error) { return &point{X: len(*req)}, nil }),
		deep.Handle(there, func(_ context.Context, req *Bytes) (*Bytes, error) { return req, nil }),
	)
	if err != nil {
		t.Fatal(err)
	}
	points := make([]point, 10)
	if got, err := list.Call(t.Context(), conn, &points); err != nil || got.X != 10 {
		t.Errorf("got %v, %v", got, err)
	}
	points = make([]point, 1000) // 14 kB of text, and 500 kB of values
	if _, err := list.Call(t.Context(), conn, &points); err == nil || !strings.Contains(err.Error(), "more than Limits.MaxRequestBytes") {
		t.Errorf("a list that takes too much memory: %v", err)
	}
	if _, err := conn.Call(t.Context(), deep.Name(), []byte(strings.Repeat("\x91", 2000)+"\x01")); err == nil || !strings.Contains(err.Error(), "decode request") {
		t.Errorf("a value that is nested deeply: %v", err)
	}
}

// A name costs a call nothing beside a number: no allocation, where the context has no deadline.
func TestCallsByNameAllocateNoMore(t *testing.T) {
	c := startCluster(t, 2, nil)
	conn := c.conn(0, 1)
	err := errors.Join(
		c.nodes[1].RegisterSingleHandlerContext(testSingle, echoContext),
		c.nodes[1].Handle("bench.Echo", echoContext),
	)
	if err != nil {
		t.Fatal(err)
	}
	sub := conn.Subroute("bench")
	if err := c.nodes[1].Handle("bench/Echo", echoContext); err != nil {
		t.Fatal(err)
	}
	payload := make([]byte, 512)
	measure := func(call func() ([]byte, error)) float64 {
		least := math.Inf(1) // what the collector and the race detector take away comes on top
		for range 10 {
			least = min(least, testing.AllocsPerRun(100, func() {
				b, err := call()
				if err != nil {
					t.Fatal(err)
				}
				PutByteBuffer(b)
			}))
		}
		return least
	}
	number := measure(func() ([]byte, error) { return conn.Request(t.Context(), testSingle, payload) })
	name := measure(func() ([]byte, error) { return conn.Call(t.Context(), "bench.Echo", payload) })
	onSub := measure(func() ([]byte, error) { return sub.Call(t.Context(), "Echo", payload) })
	if name > number || onSub > number {
		t.Errorf("a call allocates %v times by number, %v by name, %v by name on a subroute", number, name, onSub)
	}
}

// A name has a high priority where Prioritize says so, at both ends.
func TestPrioritiesOfMethods(t *testing.T) {
	node := typedNode(t)
	if err := node.Prioritize(PriorityHigh, "raft.Append", "raft.Vote"); err != nil {
		t.Fatal(err)
	}
	r := node.registry.Load()
	for name, want := range map[string]Priority{"raft.Append": PriorityHigh, "raft.Vote": PriorityHigh, "kv.Get": PriorityNormal} {
		to, err := calledMethods.to(name)
		if got := r.priority(HandlerNamed, to.wire()); err != nil || got != want {
			t.Errorf("%s has priority %v, %v, want %v", name, got, err, want)
		}
	}
	if err := node.Prioritize(PriorityHigh+1, "kv.Get"); err == nil || !strings.Contains(err.Error(), "kv.Get") {
		t.Errorf("a priority that there is not: %v", err)
	}
	if err := (*Manager)(nil).Prioritize(PriorityHigh, "kv.Get"); !errors.Is(err, errNilManager) {
		t.Errorf("no node: %v", err)
	}
}

// Whatever the bytes are, decoding them neither panics nor takes more than was counted for it before.
func FuzzValuesOfMethods(f *testing.F) {
	for _, seed := range []string{"", "{}", `{"X":1,"Y":2,"Text":"t"}`, `{"Text":"\ud800"}`, "[[[]]]", "\x81\xa1a\xa1b", "\xdf\xff\xff\xff\xff", "\xc0"} {
		f.Add([]byte(seed))
	}
	text := codecForm[point](JSONCodec, "fuzz.Text", "request")
	list := codecForm[[]point](JSONCodec, "fuzz.List", "request")
	pack := msgpForm[MSS, *MSS]("fuzz.Pack", "request")
	f.Fuzz(func(t *testing.T, b []byte) {
		none := new(countedRoom)
		if v, err := text.decode(slices.Clone(b), none); err == nil {
			again, err := text.encode(v)
			if err != nil {
				t.Fatal(err)
			}
			if same, err := text.decode(again, none); err != nil || *same != *v {
				t.Errorf("%+v comes back as %+v, %v", v, same, err)
			}
		}
		room := new(countedRoom)
		if v, err := list.decode(slices.Clone(b), room); err == nil {
			if took := cap(*v) * int(reflect.TypeFor[point]().Size()); took > max(room.bytes, footprint(len(b))) {
				t.Errorf("%d bytes become %d, and %d were counted", len(b), took, room.bytes)
			}
		}
		if v, err := pack.decode(slices.Clone(b), none); err == nil {
			if b, err := pack.encode(v); err != nil || len(b) == 0 {
				t.Errorf("%v is %x, %v", v, b, err)
			}
		}
	})
}

// countedRoom is a room without a limit.
type countedRoom struct{ bytes int }

func (r *countedRoom) reserve(bytes int) error {
	r.bytes += bytes
	return nil
}
