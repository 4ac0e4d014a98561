// Package dump shows what nodes say to each other, read from a capture of their packets. It begins
// anywhere, goes on after what is missing, and leaves out connections that are no grid's.
package dump

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/gopacket/gopacket/reassembly"
)

// Line is one thing that one side of a connection has said.
type Line struct {
	Time     time.Time `json:"time"` // of the packet that completed it
	From     string    `json:"from"` // address
	To       string    `json:"to"`
	Op       string    `json:"op"`
	MuxID    uint64    `json:"mux,omitempty"`
	Seq      uint32    `json:"seq,omitempty"`
	Handler  string    `json:"handler,omitempty"`
	Flags    string    `json:"flags,omitempty"`
	Size     int       `json:"size"` // bytes of the payload
	Detail   string    `json:"detail,omitempty"`
	Wrong    string    `json:"wrong,omitempty"`    // what is not as it should be
	Payload  []byte    `json:"payload,omitempty"`  // if it was asked for
	Metadata []byte    `json:"metadata,omitempty"` // MessagePack
}

// Options configures Read.
type Options struct {
	// Names are those of methods, which the wire does not tell: it has hashes.
	Names []string
	// Payloads has lines carry payloads.
	Payloads bool
	// Each gets the lines. An error of it ends the reading.
	Each func(l *Line) error
}

// Summary is what a capture has.
type Summary struct {
	Packets     int
	Connections int // of TCP
	Grid        int // of those, with messages of a grid
	TLS         int // of those, encrypted
	Messages    int
}

const (
	maxPages   = 4096             // that wait for a missing packet, of about 1900 bytes
	flushAfter = 10 * time.Second // by the clock of the capture
)

// Read reads a capture in the pcap or the pcapng format.
func Read(r io.Reader, o Options) (Summary, error) {
	source, err := open(bufio.NewReaderSize(r, 1<<16))
	if err != nil {
		return Summary{}, err
	}
	f := &factory{options: &o, names: newNames(o.Names)}
	assembler := reassembly.NewAssembler(reassembly.NewStreamPool(f))
	assembler.MaxBufferedPagesTotal, assembler.MaxBufferedPagesPerConnection = maxPages, maxPages/4
	var flushed time.Time
	for f.err == nil {
		data, ci, err := source.ReadPacketData()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break // tcpdump may have been ended in the middle of a packet
		}
		if err != nil {
			return f.sum, fmt.Errorf("packet %d: %w", f.sum.Packets+1, err)
		}
		f.sum.Packets++
		packet := gopacket.NewPacket(data, source.LinkType(), gopacket.DecodeOptions{Lazy: true, NoCopy: true})
		tcp, ok := packet.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !ok || packet.NetworkLayer() == nil {
			continue
		}
		assembler.AssembleWithContext(packet.NetworkLayer().NetworkFlow(), tcp, captured(ci))
		if ci.Timestamp.Sub(flushed) > flushAfter {
			assembler.FlushWithOptions(reassembly.FlushOptions{T: ci.Timestamp.Add(-flushAfter)})
			flushed = ci.Timestamp
		}
	}
	assembler.FlushAll()
	return f.sum, f.err
}

// packets reads a file of packets.
type packets interface {
	ReadPacketData() (data []byte, ci gopacket.CaptureInfo, err error)
	LinkType() layers.LinkType
}

func open(r *bufio.Reader) (packets, error) {
	magic, err := r.Peek(4)
	if err != nil {
		return nil, errors.New("it is empty")
	}
	if string(magic) == "\x0a\x0d\x0d\x0a" {
		ng, err := pcapgo.NewNgReader(r, pcapgo.DefaultNgReaderOptions)
		return ng, err
	}
	p, err := pcapgo.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("it is no capture, neither pcap nor pcapng: %w", err)
	}
	return p, nil
}

// captured is when a packet was captured.
type captured gopacket.CaptureInfo

// GetCaptureInfo is part of reassembly.AssemblerContext.
func (c captured) GetCaptureInfo() gopacket.CaptureInfo { return gopacket.CaptureInfo(c) }

// factory makes conversations of connections.
type factory struct {
	options *Options
	names   *names
	sum     Summary
	err     error // of Options.Each
}

// New is part of reassembly.StreamFactory.
func (f *factory) New(net, transport gopacket.Flow, _ *layers.TCP, _ reassembly.AssemblerContext) reassembly.Stream {
	f.sum.Connections++
	c := &conversation{factory: f}
	here := endpoint(net.Src(), transport.Src())
	there := endpoint(net.Dst(), transport.Dst())
	c.halves[0] = half{conversation: c, from: here, to: there}
	c.halves[1] = half{conversation: c, from: there, to: here}
	return c
}

func endpoint(host, port gopacket.Endpoint) string {
	if host.EndpointType() == layers.EndpointIPv6 {
		return "[" + host.String() + "]:" + port.String()
	}
	return host.String() + ":" + port.String()
}

func (f *factory) emit(l *Line) {
	if f.err == nil {
		f.err = f.options.Each(l)
	}
}

// conversation is a connection.
type conversation struct {
	*factory
	halves    [2]half
	grid, tls bool
	calls     [2]calls // by the half that has made them
}

// Accept is part of reassembly.Stream: it takes whatever there is, from the first packet on.
func (c *conversation) Accept(_ *layers.TCP, _ gopacket.CaptureInfo, _ reassembly.TCPFlowDirection, _ reassembly.Sequence, start *bool, _ reassembly.AssemblerContext) bool {
	*start = true
	return true
}

// ReassembledSG is part of reassembly.Stream.
func (c *conversation) ReassembledSG(sg reassembly.ScatterGather, _ reassembly.AssemblerContext) {
	direction, _, _, skipped := sg.Info()
	n, _ := sg.Lengths()
	h := &c.halves[0]
	if direction == reassembly.TCPDirServerToClient {
		h = &c.halves[1]
	}
	at := sg.CaptureInfo(0).Timestamp
	if skipped > 0 {
		h.lose(at, skipped)
	}
	if n > 0 {
		h.receive(at, sg.Fetch(n))
	}
}

// ReassemblyComplete is part of reassembly.Stream.
func (c *conversation) ReassemblyComplete(reassembly.AssemblerContext) bool { return true }

// isGrid notes that there are messages of a grid.
func (c *conversation) isGrid() {
	if !c.grid {
		c.grid = true
		c.sum.Grid++
	}
}
