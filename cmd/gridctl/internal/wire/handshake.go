package wire

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/tinylib/msgp/msgp"
	"github.com/zeebo/xxh3"

	"github.com/gridmesh/grid/internal/mpack"
)

// Connect is the payload of OpConnect. The fields that a node of the original does not send are
// zero.
type Connect struct {
	ID    [16]byte
	Host  string
	Time  time.Time
	Token string
	Grid  uint32 // features
	To    string
	Max   uint32 // bytes of the largest message that the sender takes
}

// Response is the payload of OpConnectResponse.
type Response struct {
	ID       [16]byte
	Accepted bool
	Reason   string
	Grid     uint32
	Host     string
	Max      uint32
}

// Features of docs/protocol.md.
const (
	FeatureNative   uint32 = 1 << 0
	FeatureMetadata uint32 = 1 << 1
	FeatureErrors   uint32 = 1 << 2
	FeatureFacts    uint32 = 1 << 8
)

var featureNames = [...]string{
	0: "native", 1: "metadata", 2: "errors", 4: "streams", 5: "pieces", 6: "windows", 7: "priorities", 8: "facts",
	9: "answers", 10: "halves", 11: "headers",
}

// FeatureNames returns the names of features, as grid.Peer has them; those without a name are left
// out.
func FeatureNames(features uint32) (names []string) {
	for bit, name := range featureNames {
		if features&(1<<bit) != 0 && name != "" {
			names = append(names, name)
		}
	}
	return names
}

// Append appends the payload, with the checksum of what has one.
func (c *Connect) Append(b []byte) []byte {
	b = msgp.AppendMapHeader(b, 8)
	b = msgp.AppendBytes(msgp.AppendString(b, "ID"), c.ID[:])
	b = msgp.AppendString(msgp.AppendString(b, "Host"), c.Host)
	b = msgp.AppendTime(msgp.AppendString(b, "Time"), c.Time)
	b = msgp.AppendString(msgp.AppendString(b, "Token"), c.Token)
	b = mpack.AppendUint(msgp.AppendString(b, "Grid"), uint64(c.Grid))
	b = msgp.AppendString(msgp.AppendString(b, "To"), c.To)
	b = mpack.AppendUint(msgp.AppendString(b, "Max"), uint64(c.Max))
	return mpack.AppendUint(msgp.AppendString(b, "Sum"), uint64(agreementSum(c.Grid, c.Max)))
}

func agreementSum(features, largest uint32) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint32(b[:], features)
	binary.LittleEndian.PutUint32(b[4:], largest)
	return max(uint32(xxh3.Hash(b[:])), 1)
}

// ParseConnect reads the payload of an OpConnect.
func ParseConnect(b []byte) (c Connect, err error) {
	f, err := readMap(b)
	if err != nil {
		return c, err
	}
	f.bytes("ID", c.ID[:])
	c.Host, c.Token, c.To = f.text("Host"), f.text("Token"), f.text("To")
	c.Time, _ = f["Time"].(time.Time)
	c.Grid, c.Max = f.number("Grid"), f.number("Max")
	return c, nil
}

// ParseResponse reads the payload of an OpConnectResponse.
func ParseResponse(b []byte) (r Response, err error) {
	f, err := readMap(b)
	if err != nil {
		return r, err
	}
	f.bytes("ID", r.ID[:])
	r.Accepted, _ = f["Accepted"].(bool)
	r.Reason, r.Host = f.text("RejectedReason"), f.text("Host")
	r.Grid, r.Max = f.number("Grid"), f.number("Max")
	return r, nil
}

// ErrorText returns the text in the payload of an OpMuxConnectError.
func ErrorText(b []byte) string {
	f, _ := readMap(b)
	return f.text("Error")
}

// PongError returns what a pong says of what it was asked about, empty for nothing.
func PongError(b []byte) string {
	f, _ := readMap(b)
	if missing, _ := f["nf"].(bool); missing {
		return "not found"
	}
	return f.text("e")
}

// fieldMap is a map of the protocol. A field of another type than it should have counts as missing.
type fieldMap map[string]any

func readMap(b []byte) (fieldMap, error) {
	rest, err := mpack.Skip(b, maxDepth) // what is read next recurses
	switch {
	case err != nil:
		return nil, err
	case len(rest) > 0:
		return nil, errors.New("there is more behind it")
	}
	m, _, err := msgp.ReadMapStrIntfBytes(b, nil)
	return m, err
}

func (f fieldMap) text(name string) string {
	s, _ := f[name].(string)
	return s
}

func (f fieldMap) bytes(name string, to []byte) {
	b, _ := f[name].([]byte)
	copy(to, b)
}

func (f fieldMap) number(name string) uint32 {
	switch n := f[name].(type) {
	case uint64:
		return uint32(n)
	case int64:
		return uint32(n)
	}
	return 0
}
