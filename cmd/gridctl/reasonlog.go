package main

import (
	"context"
	"log/slog"
	"sync"
)

// reasonLog is a log handler that keeps the last reason that was logged for
// each peer, and hands all on.
type reasonLog struct {
	next slog.Handler

	mu      sync.Mutex // Protects following.
	reasons map[string]string
}

func newReasonLog(next slog.Handler) *reasonLog {
	return &reasonLog{next: next, reasons: make(map[string]string)}
}

// of returns the last reason for a peer, empty for none.
func (l *reasonLog) of(peer string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reasons[peer]
}

// Enabled is part of slog.Handler.
func (l *reasonLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

// Handle is part of slog.Handler.
func (l *reasonLog) Handle(ctx context.Context, record slog.Record) error {
	var peer, reason string
	record.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "peer":
			peer = a.Value.String()
		case "reason":
			reason = a.Value.String()
		}
		return true
	})
	if peer != "" && reason != "" {
		l.mu.Lock()
		l.reasons[peer] = reason
		l.mu.Unlock()
	}
	if !l.next.Enabled(ctx, record.Level) {
		return nil
	}
	return l.next.Handle(ctx, record)
}

// WithAttrs is part of slog.Handler. The attributes are not kept: package grid adds none.
func (l *reasonLog) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup is part of slog.Handler. The group is not kept: package grid makes none.
func (l *reasonLog) WithGroup(string) slog.Handler { return l }
