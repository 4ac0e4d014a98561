package mpack

// CheckJSON looks at a JSON text. It fails with ErrDepth where arrays and objects are within each
// other in more than maxDepth levels. Whether it is JSON at all is not its concern; where it is,
// Values is at least the number of values, keys included, and Depth is exact.
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

// endOfString is where the string ends that begins at a place.
func endOfString(text []byte, at int) int {
	for at++; at < len(text) && text[at] != '"'; at++ {
		if text[at] == '\\' {
			at++
		}
	}
	return at
}
