package wireshark

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// vector is a message of testdata.
type vector struct {
	Name    string `json:"name"`
	Frame   string `json:"frame_hex"`
	Encoded string `json:"encoded_hex"`
}

// vectors are the messages of a file, under a key.
func vectors(t *testing.T, file, key string) (all [][]byte) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	var content map[string]json.RawMessage
	var list []vector
	if err := json.Unmarshal(b, &content); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content[key], &list); err != nil || len(list) == 0 {
		t.Fatalf("%s: %d, %v", file, len(list), err)
	}
	for _, v := range list {
		m, err := hex.DecodeString(v.Frame + v.Encoded)
		if err != nil {
			t.Fatalf("%s: %v", v.Name, err)
		}
		all = append(all, m)
	}
	return all
}

// numbers reads the six numbers of a message.
func numbers(t *testing.T, m []byte) (n [6]uint64) {
	t.Helper()
	at := 1
	for i := range n {
		c := m[at]
		size := map[byte]int{0xcc: 1, 0xcd: 2, 0xce: 4, 0xcf: 8}[c]
		at++
		if size == 0 {
			n[i] = uint64(c)
			continue
		}
		var b [8]byte
		copy(b[8-size:], m[at:at+size])
		n[i] = binary.BigEndian.Uint64(b[:])
		at += size
	}
	return n
}

// frame makes a WebSocket frame of a message, masked or not.
func frame(m []byte, masked bool) []byte {
	b := []byte{0x82, 127}
	b = binary.BigEndian.AppendUint64(b, uint64(len(m)))
	if len(m) < 126 {
		b = []byte{0x82, byte(len(m))}
	} else if len(m) < 1<<16 {
		b = binary.BigEndian.AppendUint16([]byte{0x82, 126}, uint16(len(m)))
	}
	if !masked {
		return append(b, m...)
	}
	key := []byte{1, 2, 3, 4}
	b[1] |= 0x80
	b = append(b, key...)
	for i, c := range m {
		b = append(b, c^key[i%4])
	}
	return b
}

const (
	request = "GET /minio/grid/v1 HTTP/1.1\r\nHost: b:9000\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)

// capture writes a connection in which messages are sent by turns, and returns the file.
func capture(t *testing.T, messages [][]byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "grid.pcap")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := pcapgo.NewWriter(f)
	if err := w.WriteFileHeader(1<<17, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	next, packet := map[bool]uint32{true: 100, false: 200}, 0
	send := func(dialer bool, syn bool, data []byte) {
		ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: net.IPv4(10, 0, 0, 1), DstIP: net.IPv4(10, 0, 0, 2)}
		tcp := &layers.TCP{SrcPort: 4711, DstPort: 9000, SYN: syn, ACK: !syn || !dialer, PSH: !syn, Window: 60000, Seq: next[dialer], Ack: next[!dialer]}
		if !dialer {
			ip.SrcIP, ip.DstIP, tcp.SrcPort, tcp.DstPort = ip.DstIP, ip.SrcIP, tcp.DstPort, tcp.SrcPort
		}
		next[dialer] += uint32(len(data))
		if syn {
			next[dialer]++
		}
		if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		b := gopacket.NewSerializeBuffer()
		eth := &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}
		if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, tcp, gopacket.Payload(data)); err != nil {
			t.Fatal(err)
		}
		ci := gopacket.CaptureInfo{Timestamp: time.Unix(1e9, int64(packet)*1e6), CaptureLength: len(b.Bytes()), Length: len(b.Bytes())}
		packet++
		if err := w.WritePacket(ci, b.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
	send(true, true, nil)
	send(false, true, nil)
	send(true, false, []byte(request))
	send(false, false, []byte(answer))
	for i, m := range messages {
		dialer := i%2 == 0
		for b := frame(m, dialer); len(b) > 0; {
			n := min(len(b), 30000)
			send(dialer, false, b[:n])
			b = b[n:]
		}
	}
	return name
}

// dissect returns the fields that tshark shows of each message.
func dissect(t *testing.T, file string, fields ...string) (rows [][]string) {
	t.Helper()
	args := []string{"-X", "lua_script:../../contrib/wireshark/grid.lua", "-r", file, "-Y", "grid", "-T", "fields"}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	cmd := exec.Command("tshark", args...)
	var errors strings.Builder
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil || strings.Contains(errors.String(), "Lua") {
		t.Fatalf("tshark: %v\n%s", err, &errors)
	}
	for line := range strings.SplitSeq(strings.TrimRight(string(out), "\n"), "\n") {
		rows = append(rows, strings.Split(line, "\t"))
	}
	return rows
}

func TestMessagesOfTestdata(t *testing.T) {
	var messages [][]byte
	for _, m := range vectors(t, "wire/messages.json", "messages") {
		if numbers(t, m)[4] != 17 { // see below
			messages = append(messages, m)
		}
	}
	for file, key := range map[string]string{"streams": "messages", "priorities": "messages", "pieces": "pieces", "facts": "facts"} {
		messages = append(messages, vectors(t, "native/"+file+".json", key)...)
	}
	rows := dissect(t, capture(t, messages), "grid.mux", "grid.seq", "grid.deadline", "grid.handler", "grid.op", "grid.flags", "grid.crc", "grid.subroute", "_ws.col.Info")
	if len(rows) != len(messages) {
		t.Fatalf("%d messages are shown of %d", len(rows), len(messages))
	}
	for i, m := range messages {
		want := numbers(t, m)
		for j, text := range rows[i][:6] {
			if got, err := strconv.ParseUint(text, 0, 64); err != nil || got != want[j] {
				t.Errorf("message %x: field %d is %s, want %d", m[:min(len(m), 40)], j, text, want[j])
			}
		}
		if has := rows[i][6] != ""; has != (want[5]&1 != 0) {
			t.Errorf("message %x: its checksum is %q", m[:min(len(m), 40)], rows[i][6])
		}
		if has := rows[i][7] != ""; has != (want[5]&0x20 != 0) {
			t.Errorf("message %x: its subroute is %q", m[:min(len(m), 40)], rows[i][7])
		}
		if strings.Contains(rows[i][8], "operation ") {
			t.Errorf("operation %d has no name", want[4])
		}
	}
}

func TestFieldsByOperation(t *testing.T) {
	request, err := hex.DecodeString("970300cdea60cc800e02c4026869")
	if err != nil {
		t.Fatal(err)
	}
	ping := []byte{0x97, 0, 0, 0, 0, 3, 0, 0xc4, 0}
	merged := []byte{0x97, 0, 2, 0, 0, 17, 0, 0xc4, 0}
	for _, m := range [][]byte{ping, request} {
		merged = append(append(merged, 0xc4, byte(len(m))), m...)
	}
	failed := append([]byte{0x97, 5, 0, 0, 0, 15, 8 | 2, 0xc4, 2}, "no"...)
	grant := []byte{0x97, 5, 1, 0xcd, 0x40, 0, 0, 11, 0, 0xc4, 0}
	piece := append([]byte{0x97, 5, 0xcd, 0x40, 0, 0xcd, 0x80, 0, 0, 18, 0, 0xc4, 1}, 'x')
	for _, c := range []struct {
		message []byte
		field   string
		want    string
	}{
		{merged, "grid.op", "17,3,14"},
		{merged, "grid.merged", "2"},
		{merged, "_ws.col.Info", "Ping; Request mux 3 handler 128"},
		{failed, "grid.error", "no"},
		{failed, "_ws.col.Info", "Response mux 5 error: no"},
		{grant, "grid.grant", "16384"},
		{piece, "grid.piece.size", "32768"},
		{piece, "grid.piece.left", "16384"},
		{request, "grid.payload_length", "2"},
	} {
		t.Run(fmt.Sprint(c.field, " of ", c.want), func(t *testing.T) {
			rows := dissect(t, capture(t, [][]byte{c.message}), c.field)
			if len(rows) != 1 || rows[0][0] != c.want {
				t.Errorf("%q", rows)
			}
		})
	}
	t.Run("handshake", func(t *testing.T) {
		var content struct {
			Connect []struct {
				Host, To string
				Grid     uint32
				Payload  string `json:"payload_hex"`
			} `json:"connect"`
		}
		b, err := os.ReadFile("../../testdata/native/handshake.json")
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, &content); err != nil || len(content.Connect) == 0 {
			t.Fatal(err)
		}
		v := content.Connect[0]
		payload, err := hex.DecodeString(v.Payload)
		if err != nil {
			t.Fatal(err)
		}
		m := append([]byte{0x97, 0, 0, 0, 0, 1, 0, 0xc4, byte(len(payload))}, payload...)
		rows := dissect(t, capture(t, [][]byte{m}), "grid.host", "grid.to", "grid.features")
		if want := []string{v.Host, v.To, fmt.Sprintf("0x%08x", v.Grid)}; len(rows) != 1 || strings.Join(rows[0], " ") != strings.Join(want, " ") {
			t.Errorf("%q, want %q", rows, want)
		}
	})
}
