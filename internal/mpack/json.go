package mpack

// CheckJSON examines a JSON text. It fails with ErrDepth if arrays and objects nest more than
// maxDepth levels deep. It does not check that the text is valid JSON; if it is, Values is at least
// the number of values, keys included, and Depth is exact.
func CheckJSON(text []byte, maxDepth int) (s Shape, err error) {
	s.Values = 1
	depth := 0
	for at := 0; at < len(text); at++ {
		switch text[at] {
		case '"':
			at = endOfString(text, at)
		case ',', ':':
			s.Values++
		case '[', '{':
			s.Values++
			s.Containers++
			depth++
			if depth > maxDepth {
				return s, tooDeep(maxDepth)
			}
			s.Depth = max(s.Depth, depth)
		case ']', '}':
			depth--
		}
	}
	return s, nil
}

// endOfString returns where the string that begins at a place ends.
func endOfString(text []byte, at int) int {
	for at++; at < len(text) && text[at] != '"'; at++ {
		if text[at] == '\\' {
			at++
		}
	}
	return at
}
