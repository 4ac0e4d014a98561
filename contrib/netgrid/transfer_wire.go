package netgrid

import (
	"encoding/binary"
	"errors"
	"math"
)

// The messages of a transfer. README.md describes them.

// transferVersion begins the payload that opens a transfer.
const transferVersion = 1

var errTransfer = errors.New("netgrid: malformed message of a transfer")

// opening opens a transfer, as the payload of its stream.
type opening struct {
	size int64 // of an upload; -1 if unknown
	have part  // of a download
	meta []byte
}

// part is what a receiver has already.
type part struct {
	bytes int64
	sum   Sum // if there are any
}

// terms are the first message of the handler: where the bytes begin, and for a download, how many
// there are.
type terms struct {
	size int64
	have part
}

// ending follows the bytes, and an empty message behind them.
type ending struct {
	verdict verdict
	bytes   int64 // of all
	sum     Sum
	text    string // of an error
}

// verdict is how a transfer has ended for its sender.
type verdict uint8

const (
	verdictWhole    verdict = iota // bytes and sum follow
	verdictMismatch                // what the receiver has is not the beginning
	verdictFailed                  // the text of an error follows
)

func (o opening) encode() []byte {
	b := appendSize([]byte{transferVersion}, o.size)
	b = o.have.append(b)
	return append(b, o.meta...)
}

func parseOpening(b []byte) (o opening, err error) {
	if len(b) == 0 || b[0] != transferVersion {
		return o, errTransfer
	}
	if o.size, b, err = cutSize(b[1:]); err != nil {
		return o, err
	}
	o.have, o.meta, err = cutPart(b)
	return o, err
}

func (t terms) encode() []byte {
	return t.have.append(appendSize(nil, t.size))
}

func parseTerms(b []byte) (t terms, err error) {
	if t.size, b, err = cutSize(b); err != nil {
		return t, err
	}
	t.have, b, err = cutPart(b)
	return t, none(b, err)
}

func (e ending) encode() []byte {
	b := []byte{byte(e.verdict)}
	if e.verdict != verdictWhole {
		return append(b, e.text...)
	}
	return append(binary.AppendUvarint(b, uint64(e.bytes)), e.sum[:]...)
}

func parseEnding(b []byte) (e ending, err error) {
	if len(b) == 0 {
		return e, errTransfer
	}
	e.verdict, b = verdict(b[0]), b[1:]
	if e.verdict != verdictWhole {
		e.text = string(b)
		return e, nil
	}
	if e.bytes, b, err = cutNumber(b); err != nil {
		return e, err
	}
	e.sum, b, err = cutSum(b)
	return e, none(b, err)
}

// appendSize appends a size: 0 for an unknown one, else one more than it is.
func appendSize(b []byte, n int64) []byte { return binary.AppendUvarint(b, uint64(n+1)) }

func cutSize(b []byte) (n int64, rest []byte, err error) {
	n, rest, err = cutNumber(b)
	return n - 1, rest, err
}

func (p part) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(p.bytes))
	if p.bytes > 0 {
		b = append(b, p.sum[:]...)
	}
	return b
}

func cutPart(b []byte) (p part, rest []byte, err error) {
	if p.bytes, b, err = cutNumber(b); err == nil && p.bytes > 0 {
		p.sum, b, err = cutSum(b)
	}
	return p, b, err
}

func cutNumber(b []byte) (n int64, rest []byte, err error) {
	v, k := binary.Uvarint(b)
	if k <= 0 || v > math.MaxInt64 {
		return 0, nil, errTransfer
	}
	return int64(v), b[k:], nil
}

func cutSum(b []byte) (s Sum, rest []byte, err error) {
	if len(b) < len(s) {
		return s, nil, errTransfer
	}
	return Sum(b[:len(s)]), b[len(s):], nil
}

// none returns err, or an error if there is more.
func none(b []byte, err error) error {
	if err == nil && len(b) > 0 {
		return errTransfer
	}
	return err
}
