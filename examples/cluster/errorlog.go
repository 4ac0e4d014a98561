package main

import (
	"log"
	"sync"
	"time"
)

// What a server logs of strangers, such as TLS handshakes that fail: they can cause a line as often
// as they like.
const (
	strangerLines  = 10
	strangerPeriod = 10 * time.Second
)

// boundedLog is the writer of a log that keeps to these bounds.
type boundedLog struct {
	mu    sync.Mutex // Protects following.
	began time.Time
	lines int // since began
	more  int // left out since began
}

// Write takes one line.
func (l *boundedLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.began) >= strangerPeriod {
		if l.more > 0 {
			log.Printf("http: %d more lines about strangers", l.more)
		}
		l.began, l.lines, l.more = time.Now(), 0, 0
	}
	if l.lines == strangerLines {
		l.more++
		return len(line), nil
	}
	l.lines++
	log.Printf("%s", line)
	return len(line), nil
}
