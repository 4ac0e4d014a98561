package grid

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
)

// SetHeader sets metadata that goes to the caller with the answer of a handler that got ctx: of a
// request with its answer, of a stream with the first message, or with the end if there is none. What
// an earlier SetHeader has set goes too, except for keys that md also has. md is copied.
//
// It fails with ErrMetadata if md breaks the rules of Metadata, if all of it exceeds the limit, and if
// it comes too late; nothing is changed then. It fails for a context that is not a handler's. A caller
// that does not support it, such as a node of the original, gets the answer without it.
func SetHeader(ctx context.Context, md Metadata) error {
	s, err := answerStateOf(ctx)
	if err != nil {
		return err
	}
	return s.setHeader(md, false)
}

// SetTrailer is SetHeader for metadata that goes to the caller with the end of the answer. For a
// request, which has only one message, that differs by name alone. It also goes with an error of the
// handler.
func SetTrailer(ctx context.Context, md Metadata) error {
	s, err := answerStateOf(ctx)
	if err != nil {
		return err
	}
	return s.setTrailer(md)
}

type answerKey struct{}

var (
	errNoHandlerContext = errors.New("grid: the context is not that of a handler")
	errHeaderSent       = fmt.Errorf("%w: the header has been sent", ErrMetadata)
	errAnswerSent       = fmt.Errorf("%w: the answer has been sent", ErrMetadata)
)

// answerState is the part of a handler's context that knows what goes with its answer. Most handlers
// set nothing: then it is but a few bytes.
type answerState struct {
	set  atomic.Pointer[outgoingAnswer] // nil until something is set
	most uint32                         // bytes that the caller takes; 0 if it takes none
	sent atomic.Uint32                  // headerSent, trailerSent, headerFixed
}

const (
	headerSent = 1 << iota
	trailerSent
	headerFixed // SendHeader has set all of it, and it shall be sent without waiting for a message
)

// outgoingAnswer is what a handler has set to go with its answer.
type outgoingAnswer struct {
	mu              sync.Mutex // Protects following.
	header, trailer answerSide
}

// answerSide is one of the two.
type answerSide struct {
	md      Metadata
	encoded []byte
}

// takes notes what the caller takes with an answer.
func (s *answerState) takes(a *agreement) {
	if a.has(featureAnswers) {
		s.most = uint32(a.maxDetails())
	}
}

func answerStateOf(ctx context.Context) (s *answerState, err error) {
	if ctx != nil {
		s, _ = ctx.Value(answerKey{}).(*answerState)
	}
	if s == nil {
		err = errNoHandlerContext
	}
	return s, err
}

// outgoing returns what is set, to set more. It must come before a look at what is sent.
func (s *answerState) outgoing() *outgoingAnswer {
	a := s.set.Load()
	if a == nil {
		a = new(outgoingAnswer)
		if !s.set.CompareAndSwap(nil, a) {
			a = s.set.Load()
		}
	}
	return a
}

// setHeader adds to the header; nothing can be added after the last.
func (s *answerState) setHeader(md Metadata, last bool) error {
	a := s.outgoing()
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.sent.Load()&(headerSent|headerFixed) != 0 {
		return errHeaderSent
	}
	err := a.header.add(md, int(s.most))
	if err == nil && last {
		s.sent.Or(headerFixed)
	}
	return err
}

func (s *answerState) setTrailer(md Metadata) error {
	a := s.outgoing()
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.sent.Load()&trailerSent != 0 {
		return errAnswerSent
	}
	return a.trailer.add(md, int(s.most))
}

// add adds metadata to that of one side, of which the caller takes most bytes, or none if that is 0.
func (s *answerSide) add(md Metadata, most int) error {
	all := make(Metadata, len(s.md)+len(md))
	maps.Copy(all, s.md)
	maps.Copy(all, md.Clone())
	encoded, err := all.encode()
	switch {
	case err != nil:
		return err
	case most > 0 && len(encoded) > most:
		return tooMuchMetadata(len(encoded), most)
	case most == 0:
		encoded = nil
	}
	s.md, s.encoded = all, encoded
	return nil
}

// headerDue reports whether SendHeader waits for the header to be sent.
func (s *answerState) headerDue() bool { return s.sent.Load()&(headerSent|headerFixed) == headerFixed }

// takeHeader returns the encoded header, nil if nothing is set, to the first who asks. From then on it
// cannot be set anymore. It comes before the look at what is set, and SetHeader looks for it after it
// has set something up to be seen: no header that SetHeader took is left behind.
func (s *answerState) takeHeader() (header []byte, first bool) {
	if s.sent.Or(headerSent)&headerSent != 0 {
		return nil, false
	}
	a := s.set.Load()
	if a == nil {
		return nil, true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.header.encoded, true
}

// returnHeader takes back takeHeader, for what was to carry the header is not sent.
func (s *answerState) returnHeader() { s.sent.And(^uint32(headerSent)) }

// takeEnd returns what the last message carries: the trailer, and the header unless that has been
// taken before. From then on neither can be set anymore.
func (s *answerState) takeEnd() (header, trailer []byte) {
	before := s.sent.Or(headerSent | trailerSent)
	a := s.set.Load()
	if a == nil {
		return nil, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if before&headerSent == 0 {
		header = a.header.encoded
	}
	if before&trailerSent == 0 {
		trailer = a.trailer.encoded
	}
	return header, trailer
}
