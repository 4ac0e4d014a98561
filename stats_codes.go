package grid

import (
	"encoding/json"
	"fmt"
	"strings"
)

// CodeStats counts errors by their Code, which is the index. In JSON, and as a text, it has the names
// of the codes that were counted.
type CodeStats [Unauthenticated + 1]int64

// String returns the names and numbers of what was counted, such as "NotFound 3, Internal 1"; empty for
// nothing.
func (s CodeStats) String() string {
	var b strings.Builder
	for code, n := range s {
		if n == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%v %d", Code(code), n)
	}
	return b.String()
}

// MarshalJSON returns an object such as {"NotFound":3}.
func (s CodeStats) MarshalJSON() ([]byte, error) {
	counted := make(map[string]int64)
	for code, n := range s {
		if n != 0 {
			counted[Code(code).String()] = n
		}
	}
	return json.Marshal(counted)
}

// UnmarshalJSON takes such an object. Names of codes that it does not know count as Unknown.
func (s *CodeStats) UnmarshalJSON(b []byte) error {
	var counted map[string]int64
	if err := json.Unmarshal(b, &counted); err != nil {
		return fmt.Errorf("grid: CodeStats: %w", err)
	}
	*s = CodeStats{}
	for name, n := range counted {
		s[codeNamed(name)] += n
	}
	return nil
}

// codeNamed returns the code with a name; Unknown for none.
func codeNamed(name string) Code {
	for code, known := range codeNames {
		if known == name {
			return Code(code)
		}
	}
	return Unknown
}
