package grid

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/gridmesh/grid/internal/visible"
)

// maxLogValue bounds a value in a line of the log, in bytes.
const maxLogValue = 1 << 10

// visibleLog is a log handler in front of the application's. In what a line says, peers may have
// had their say: control characters, characters that turn the direction of writing, and bytes that
// are no UTF-8 become escapes, and long texts are cut.
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

// visibleValue returns the value of an attribute, or where that is not fit to be seen its text.
func visibleValue(a slog.Attr) slog.Value {
	if a.Key == "stack" { // is of many lines, and this program's own
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

// clip makes what a peer says fit to be kept, and told: short, and without characters that control
// a terminal or hide.
func clip(s string) string {
	const limit = 256 // bytes
	text, cut := visible.Cut(s, limit)
	if cut {
		text += "..."
	}
	return text
}
