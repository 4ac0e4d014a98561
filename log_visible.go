package grid

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/gridmesh/grid/internal/visible"
)

// maxLogValue bounds a value in a line of the log, in bytes.
const maxLogValue = 1 << 10

// visibleLog is a log handler in front of the application's. Peers may have supplied part of a
// line, so control characters, characters that change the writing direction, and invalid UTF-8
// become escapes, and long texts are cut.
type visibleLog struct{ slog.Handler }

// Handle is part of slog.Handler.
func (l visibleLog) Handle(ctx context.Context, record slog.Record) error {
	shown := slog.NewRecord(record.Time, record.Level, record.Message, record.PC)
	record.Attrs(func(a slog.Attr) bool {
		shown.AddAttrs(slog.Attr{Key: a.Key, Value: visibleValue(a)})
		return true
	})
	return l.Handler.Handle(ctx, shown)
}

// visibleValue returns the value of an attribute or, if that is not fit to be shown, an escaped
// text of it.
func visibleValue(a slog.Attr) slog.Value {
	if a.Key == "stack" { // has many lines, and is this program's own
		return a.Value
	}
	var text string
	switch a.Value.Kind() {
	case slog.KindString:
		text = a.Value.String()
	case slog.KindAny:
		text = fmt.Sprint(a.Value.Any())
	default:
		return a.Value
	}
	if shown, cut := visible.Cut(text, maxLogValue); cut {
		return slog.StringValue(shown + "...")
	} else if shown != text {
		return slog.StringValue(shown)
	}
	return a.Value
}

// clip makes what a peer says fit to be kept and passed on: short, and without hidden characters or
// those that control a terminal.
func clip(s string) string {
	const limit = 256 // bytes
	text, cut := visible.Cut(s, limit)
	if cut {
		text += "..."
	}
	return text
}
