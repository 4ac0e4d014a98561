package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/debugz"
)

// answerPrinter prints what comes back.
type answerPrinter struct {
	stdout, stderr io.Writer
	config         *callConfig
	began          time.Time
	metadata       *grid.AnswerMetadata
	answer         json.RawMessage // of a request, for the one line of JSON
}

// callEnd is what -json prints at the end of a call.
type callEnd struct {
	Answer  json.RawMessage `json:"answer,omitempty"`
	Code    string          `json:"code"`
	Error   string          `json:"error,omitempty"`
	Details []byte          `json:"details,omitempty"` // base64
	Remote  bool            `json:"remote,omitempty"`  // the handler returned the error
	Header  grid.Metadata   `json:"header,omitempty"`
	Trailer grid.Metadata   `json:"trailer,omitempty"`
	Seconds float64         `json:"seconds"`
}

// message prints an answer, or a message of a stream.
func (p *answerPrinter) message(b []byte) error {
	defer grid.PutByteBuffer(b)
	f := formats[p.config.format]
	if p.config.json {
		text, err := f.asJSON(b)
		switch {
		case err != nil:
			return err
		case !p.config.stream:
			p.answer = text
			return nil
		}
		return json.NewEncoder(p.stdout).Encode(map[string]json.RawMessage{"message": text})
	}
	text, err := f.decode(b)
	if err != nil {
		return err
	}
	if p.config.stream || p.config.format != "raw" || isTerminal(p.stdout) {
		if p.config.format != "raw" || isTerminal(p.stdout) {
			_, err = fmt.Fprintf(p.stdout, "%s\n", text)
		} else {
			_, err = asItIs(p.stdout).Write(append(slices.Clip(text), '\n'))
		}
		return err
	}
	_, err = asItIs(p.stdout).Write(text)
	return err
}

// end prints how the call ended. It returns an error of printing that.
func (p *answerPrinter) end(failure error) error {
	end := callEnd{Answer: p.answer, Code: grid.CodeOf(failure).String(), Seconds: time.Since(p.began).Seconds()}
	if p.metadata != nil {
		end.Header, end.Trailer = p.metadata.Header(), p.metadata.Trailer()
	}
	if failure != nil {
		end.Error = failure.Error()
		if e, ok := errors.AsType[*grid.Error](failure); ok {
			end.Details, end.Remote = e.Details, e.Remote
		}
	}
	if p.config.json {
		return json.NewEncoder(p.stdout).Encode(end)
	}
	if p.config.verbose || failure != nil {
		p.metadataLines("header", end.Header)
		p.metadataLines("trailer", end.Trailer)
		if len(end.Details) > 0 {
			fmt.Fprintf(p.stderr, "details: %q\n", end.Details)
		}
	}
	if p.config.verbose {
		fmt.Fprintf(p.stderr, "code: %s, %s\n", end.Code, short(time.Since(p.began)))
	}
	return nil
}

func (p *answerPrinter) metadataLines(what string, md grid.Metadata) {
	for _, key := range md.Keys() {
		for _, value := range md[key] {
			fmt.Fprintf(p.stderr, "%s: %s: %s\n", what, key, value)
		}
	}
}

// printHandlers lists the handlers of a node: with names if it tells them, and else those with
// numbers that it is known to have.
func (c *callConfig) printHandlers(ctx context.Context, conn *grid.Connection, w io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, max(c.timeout, time.Second))
	defer cancel()
	all, err := debugz.Handlers(ctx, conn)
	told := err == nil
	if !told {
		for i := range 256 {
			if id := grid.HandlerID(i); conn.Handles(id) {
				all = append(all, debugz.HandlerInfo{ID: id, Name: id.String()})
			}
		}
	}
	if !told && len(all) == 0 {
		return denied(conn.Remote, "its handlers", err)
	}
	slices.SortStableFunc(all, func(a, b debugz.HandlerInfo) int { return strings.Compare(a.Name, b.Name) })
	if c.json {
		if err := json.NewEncoder(w).Encode(all); err != nil {
			return err
		}
	} else {
		handlerTable(all, told).writeTo(w)
	}
	if !told {
		return fmt.Errorf("these are only those with numbers; %w", denied(conn.Remote, "the others", err))
	}
	return nil
}

// handlerTable shows handlers, and whether they are streams if that is known.
func handlerTable(all []debugz.HandlerInfo, kinds bool) (t leftTable) {
	t.add("handler", "number", "kind", "subroute")
	for _, h := range all {
		number, kind := "", "request"
		if h.ID != grid.HandlerNamed || h.Subroute != "" {
			number = fmt.Sprint(uint8(h.ID))
		}
		switch {
		case !kinds:
			kind = "?"
		case h.Stream:
			kind = "stream"
		}
		t.add(h.Name, number, kind, h.Subroute)
	}
	return t
}
