package grid

import "fmt"

// answers is where what this node asked for counts, over a connection: nowhere, but each alone is bounded.
type answers Limits

// maxAnswerFactor is how many times as large as the largest message an answer may be once it is decoded.
const maxAnswerFactor = 16

func (a *answers) reserve(bytes int) error {
	if most := maxAnswerFactor * int64(a.MaxMessageSize); int64(bytes) > most {
		return fmt.Errorf("the value may take %d bytes of memory, more than %d times Limits.MaxMessageSize, which is %d",
			bytes, maxAnswerFactor, a.MaxMessageSize)
	}
	return nil
}

var defaultLimits = Limits{}.withDefaults()

// anyAnswers is where answers count that come from elsewhere.
var anyAnswers = (*answers)(&defaultLimits)

// answerRoom is where an answer counts.
func answerRoom(c any) room {
	switch c := c.(type) {
	case *Connection:
		return (*answers)(&c.limits)
	case *Subroute:
		return (*answers)(&c.limits)
	}
	return anyAnswers
}

// room is where what comes on the stream counts.
func (s *Stream) room() room {
	if s.mux == nil { // one that an application has made
		return anyAnswers
	}
	return (*answers)(&s.mux.limits)
}
