package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/tinylib/msgp/msgp"

	"github.com/gridmesh/grid/internal/mpack"
)

// format is how bodies and answers are written.
type format struct {
	encode func(text []byte) (body []byte, err error)
	decode func(body []byte) (text []byte, err error)
	asJSON func(body []byte) (json.RawMessage, error)
}

// formats are those of -format.
var formats = map[string]*format{
	"raw": {
		encode: func(text []byte) ([]byte, error) { return text, nil },
		decode: func(body []byte) ([]byte, error) { return body, nil },
		asJSON: bytesAsJSON,
	},
	"json": {encode: compactJSON, decode: compactJSON, asJSON: func(b []byte) (json.RawMessage, error) { return compactJSON(b) }},
	"msgp": {encode: jsonToMsgpack, decode: msgpackToJSON, asJSON: func(b []byte) (json.RawMessage, error) { return msgpackToJSON(b) }},
}

// bytesKey is the key of an object that stands for bytes.
const bytesKey = "$bytes"

// bytesAsJSON returns text as a string, and what is no text as an object.
func bytesAsJSON(b []byte) (json.RawMessage, error) {
	if utf8.Valid(b) {
		return json.Marshal(string(b))
	}
	return json.Marshal(map[string][]byte{bytesKey: b})
}

func compactJSON(text []byte) ([]byte, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, nil
	}
	var out bytes.Buffer
	if err := json.Compact(&out, text); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	return out.Bytes(), nil
}

// maxNesting bounds how deep values may be.
const maxNesting = 1000

// msgpackToJSON writes all values of MessagePack, with spaces between them.
func msgpackToJSON(b []byte) ([]byte, error) {
	var out bytes.Buffer
	for rest := b; len(rest) > 0; {
		one := rest
		var err error
		if rest, err = mpack.Skip(one, maxNesting); err != nil {
			return nil, fmt.Errorf("the answer is not MessagePack (-format raw shows it): %w", err)
		}
		if out.Len() > 0 {
			out.WriteByte(' ')
		}
		if _, err = msgp.UnmarshalAsJSON(&out, one[:len(one)-len(rest)]); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// jsonToMsgpack writes a value of JSON as MessagePack. Nothing stays nothing.
func jsonToMsgpack(text []byte) ([]byte, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("not JSON: there is more behind the value")
	}
	return appendMsgpack(nil, v)
}

func appendMsgpack(b []byte, v any) (_ []byte, err error) {
	switch v := v.(type) {
	case json.Number:
		return appendNumber(b, v)
	case []any:
		b = msgp.AppendArrayHeader(b, uint32(len(v)))
		for _, e := range v {
			if b, err = appendMsgpack(b, e); err != nil {
				return nil, err
			}
		}
		return b, nil
	case map[string]any:
		if text, ok := v[bytesKey].(string); ok && len(v) == 1 {
			raw, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", bytesKey, err)
			}
			return msgp.AppendBytes(b, raw), nil
		}
		b = msgp.AppendMapHeader(b, uint32(len(v)))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if b, err = appendMsgpack(msgp.AppendString(b, key), v[key]); err != nil {
				return nil, err
			}
		}
		return b, nil
	}
	return msgp.AppendIntf(b, v) // nil, a bool or a string
}

func appendNumber(b []byte, n json.Number) ([]byte, error) {
	if i, err := n.Int64(); err == nil {
		return msgp.AppendInt64(b, i), nil
	}
	if u, err := strconv.ParseUint(n.String(), 10, 64); err == nil {
		return msgp.AppendUint64(b, u), nil
	}
	f, err := n.Float64()
	return msgp.AppendFloat64(b, f), err
}

// eachLine calls f with each line, without its end, until f fails.
func eachLine(r io.Reader, f func(line []byte) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxSize)
	for lines.Scan() {
		if err := f(slices.Clone(lines.Bytes())); err != nil {
			return err
		}
	}
	return lines.Err()
}
