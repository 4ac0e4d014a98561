package dump

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/gridmesh/grid"
)

// segment is what one side has sent at once.
type segment struct {
	fromDialer bool
	data       []byte
}

// recorder is a connection of the dialer that keeps what goes over it.
type recorder struct {
	net.Conn
	mu       *sync.Mutex
	segments *[]segment
}

func (r *recorder) note(fromDialer bool, b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*r.segments = append(*r.segments, segment{fromDialer, bytes.Clone(b)})
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	if n > 0 {
		r.note(false, b[:n])
	}
	return n, err
}

func (r *recorder) Write(b []byte) (int, error) {
	r.note(true, b)
	return r.Conn.Write(b)
}

// recordCalls records what a guest and a node say: a request, one that fails, a stream, and one in
// pieces.
func recordCalls(t *testing.T) []segment {
	t.Helper()
	var mu sync.Mutex
	var segments []segment
	quiet := slog.New(slog.DiscardHandler)
	server := httptest.NewUnstartedServer(nil)
	defer server.Close()
	name := "http://" + server.Listener.Addr().String()
	node, err := grid.NewManager(t.Context(), grid.ManagerOptions{
		Local: name, Logger: quiet, Version: "2.6", AuthRequest: func(*http.Request) error { return nil },
		AcceptGuest: func(*http.Request, string) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	err = errors.Join(
		node.Handle("kv.Get", func(_ context.Context, b []byte) ([]byte, error) {
			if len(b) == 0 {
				return nil, grid.NewError(grid.NotFound, "no such key")
			}
			return b, nil
		}),
		node.HandleStream("kv.Watch", func(_ context.Context, st *grid.RawStream) error { return st.Send([]byte("event")) }),
	)
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = node.Handler()
	server.Start()
	guest, err := grid.Join(t.Context(), name, grid.ManagerOptions{
		Local: "guest", Logger: quiet,
		Dialer: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, address)
			return &recorder{c, &mu, &segments}, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	conn := guest.Connection(name)
	if err := conn.WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, _ = conn.Call(t.Context(), "kv.Get", []byte("hello"))
	_, _ = conn.Call(t.Context(), "kv.Get", nil)
	st, err := conn.OpenStream(t.Context(), "kv.Watch", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = st.Results(func([]byte) error { return nil })
	_, _ = conn.Call(t.Context(), "kv.Get", make([]byte, 100_000))
	_ = guest.Shutdown(t.Context())
	mu.Lock()
	defer mu.Unlock()
	return segments
}

// capture writes packets with the segments, none over 1000 bytes; skip leaves out packets.
func capture(t *testing.T, segments []segment, skip func(packet int) bool) []byte {
	t.Helper()
	var out bytes.Buffer
	w := pcapgo.NewWriter(&out)
	if err := w.WriteFileHeader(1<<16, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	packet := 0
	next := map[bool]uint32{true: 1000, false: 5000}
	for _, s := range segments {
		for data := s.data; len(data) > 0; packet++ {
			part := data[:min(len(data), 1000)]
			data = data[len(part):]
			ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: net.IPv4(10, 0, 0, 1), DstIP: net.IPv4(10, 0, 0, 2)}
			tcp := &layers.TCP{SrcPort: 4711, DstPort: 9000, ACK: true, PSH: true, Window: 1024, Seq: next[s.fromDialer]}
			if !s.fromDialer {
				ip.SrcIP, ip.DstIP, tcp.SrcPort, tcp.DstPort = ip.DstIP, ip.SrcIP, tcp.DstPort, tcp.SrcPort
			}
			next[s.fromDialer] += uint32(len(part))
			if skip != nil && skip(packet) {
				continue
			}
			if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
				t.Fatal(err)
			}
			b := gopacket.NewSerializeBuffer()
			eth := &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}
			if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, tcp, gopacket.Payload(part)); err != nil {
				t.Fatal(err)
			}
			ci := gopacket.CaptureInfo{Timestamp: time.Unix(1e9, int64(packet)*1e6), CaptureLength: len(b.Bytes()), Length: len(b.Bytes())}
			if err := w.WritePacket(ci, b.Bytes()); err != nil {
				t.Fatal(err)
			}
		}
	}
	return out.Bytes()
}

func read(t *testing.T, file []byte) ([]Line, Summary) {
	t.Helper()
	var lines []Line
	sum, err := Read(bytes.NewReader(file), Options{Names: []string{"kv.Get", "kv.Watch"}, Each: func(l *Line) error {
		lines = append(lines, *l)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return lines, sum
}

// has reports whether there is such a line.
func has(lines []Line, from, op, handler, detail string) bool {
	for _, l := range lines {
		if l.From == from && l.Op == op && l.Handler == handler && strings.Contains(l.Detail, detail) && l.Wrong == "" {
			return true
		}
	}
	return false
}

func TestCapture(t *testing.T) {
	const dialer, node = "10.0.0.1:4711", "10.0.0.2:9000"
	segments := recordCalls(t)
	t.Run("whole", func(t *testing.T) {
		lines, sum := read(t, capture(t, segments, nil))
		if sum.Connections != 1 || sum.Grid != 1 || sum.Messages < 15 {
			t.Errorf("%+v", sum)
		}
		for _, want := range [][4]string{
			{dialer, "HTTP", "", "GET /minio/grid/v1"},
			{node, "HTTP", "", "101 Switching Protocols"},
			{dialer, "Connect", "", "it is guest and wants http://"},
			{node, "ConnectResponse", "", "accepted by http://"},
			{node, "Facts", "", "version 2.6, 1 handlers of requests and 1 of streams"},
			{dialer, "Request", "kv.Get", "within"},
			{node, "Response", "kv.Get", ""},
			{node, "Response", "kv.Get", "error: no such key"},
			{dialer, "ConnectMux", "kv.Watch", "takes 65536 ahead"},
			{node, "AckMux", "kv.Watch", "ahead"},
			{node, "MuxServerMsg", "kv.Watch", ""},
			{dialer, "Piece", "", "the first one of Request with 100"},
			{node, "AckPieces", "", "bytes were read"},
			{dialer, "Disconnect", "", ""},
			{dialer, "WebSocket close", "", "1001"},
		} {
			if !has(lines, want[0], want[1], want[2], want[3]) {
				t.Errorf("no %q", want)
			}
		}
		for _, l := range lines {
			if l.Wrong != "" {
				t.Errorf("%+v", l)
			}
		}
	})
	t.Run("from the middle on", func(t *testing.T) {
		for first := range 12 {
			lines, sum := read(t, capture(t, segments, func(packet int) bool { return packet < first }))
			if sum.Grid != 1 || !has(lines, dialer, "WebSocket close", "", "1001") || !has(lines, node, "AckPieces", "", "") {
				t.Errorf("from packet %d on: %+v", first, sum)
			}
		}
	})
	t.Run("with a packet missing", func(t *testing.T) {
		for missing := 6; missing < 14; missing++ {
			lines, sum := read(t, capture(t, segments, func(packet int) bool { return packet == missing }))
			if sum.Grid != 1 || !has(lines, dialer, "Connect", "", "") || !has(lines, dialer, "WebSocket close", "", "1001") || !has(lines, node, "AckPieces", "", "") {
				t.Errorf("without packet %d: %+v", missing, sum)
			}
		}
	})
	t.Run("TLS", func(t *testing.T) {
		lines, sum := read(t, capture(t, []segment{{true, []byte("\x16\x03\x01\x00\x05hello")}, {false, []byte("\x16\x03\x03\x00\x01x")}}, nil))
		if sum.TLS != 1 || sum.Grid != 0 || len(lines) != 1 || !strings.Contains(lines[0].Detail, "TLS: this cannot be read") {
			t.Errorf("%+v, %+v", sum, lines)
		}
	})
	t.Run("something else", func(t *testing.T) {
		lines, sum := read(t, capture(t, []segment{{true, []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")}, {false, []byte("SSH-2.0\r\n")}}, nil))
		if sum.Grid != 0 || len(lines) != 0 {
			t.Errorf("%+v, %+v", sum, lines)
		}
	})
	t.Run("no capture", func(t *testing.T) {
		for _, file := range []string{"", "no capture at all"} {
			if _, err := Read(strings.NewReader(file), Options{}); err == nil {
				t.Errorf("%q was read", file)
			}
		}
	})
}

func FuzzHalf(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n\x82\x09\x97\x00\x00\x00\x00\x03\x00\xc4\x00"), 7)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		c := &conversation{factory: &factory{options: &Options{Each: func(*Line) error { return nil }}, names: newNames(nil)}}
		c.halves[0], c.halves[1] = half{conversation: c}, half{conversation: c}
		cut = min(max(cut, 0), len(b))
		c.halves[0].receive(time.Time{}, b[:cut])
		c.halves[0].receive(time.Time{}, b[cut:])
		c.halves[1].receive(time.Time{}, b)
	})
}
