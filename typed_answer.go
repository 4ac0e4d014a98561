package grid

import "fmt"

// answers is the room for answers that this node has requested over a connection: each alone is
// bounded, their sum is not.
type answers Limits

// maxAnswerFactor bounds the size of a decoded answer, as a multiple of the largest message.
const maxAnswerFactor = 16

func (a *answers) reserve(bytes int) error {
	if most := maxAnswerFactor * int64(a.MaxMessageSize); int64(bytes) > most {
		return fmt.Errorf("the value may take %d bytes of memory, more than %d times Limits.MaxMessageSize, which is %d",
			bytes, maxAnswerFactor, a.MaxMessageSize)
	}
	return nil
}

var defaultLimits = Limits{}.withDefaults()

// anyAnswers is the room for answers from elsewhere.
var anyAnswers = (*answers)(&defaultLimits)

// answerRoom returns the room in which an answer counts.
func answerRoom(c any) room {
	switch c := c.(type) {
	case *Connection:
		return (*answers)(c.limits)
	case *Subroute:
		return (*answers)(c.limits)
	}
	return anyAnswers
}

// room returns the room in which messages of the stream count.
func (s *Stream) room() room {
	if s.mux == nil { // one that an application has made
		return anyAnswers
	}
	return (*answers)(s.mux.limits)
}
