package debugz

import (
	"fmt"
	"strings"
	"time"

	"github.com/gridmesh/grid"
)

// funcs are what the templates may call.
var funcs = map[string]any{
	"bytes":     func(n int64) string { return bytesText(float64(n)) },
	"bytesInt":  func(n int) string { return bytesText(float64(n)) },
	"count":     count,
	"rate":      func(w Window) string { return rate{w.Calls, w.Over}.text(perSecond) },
	"failed":    failed,
	"bytesOver": func(n int64, over time.Duration) string { return rate{n, over}.text(bytesRate) },
	"duration":  duration,
	"minutes":   func(n int) time.Duration { return time.Duration(n) * time.Minute },
	"age":       age,
	"ago":       func(now, t time.Time) string { return age(now.Sub(t)) },
	"clock":     func(t time.Time) string { return t.Format("15:04:05") },
	"stamp":     func(t time.Time) string { return t.Format(time.RFC3339Nano) },
	"percent":   percent,
	"perFrame":  perFrame,
	"kind":      kindOf,
	"labels":    labelTexts,
	"trim":      func(handler string) string { return strings.TrimPrefix(handler, "grid.") },
}

// failed is the number of errors of a window; a dash if nothing is known.
func failed(w Window) string {
	if w.Over <= 0 {
		return "–"
	}
	return count(w.Errors)
}

// bytesText is a number of bytes in a unit that fits.
func bytesText(n float64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%.0f B", n)
	}
	i := -1
	for n >= 999.5 && i < len(units)-1 {
		n /= 1000
		i++
	}
	return fmt.Sprintf("%s %cB", digits(n), units[i])
}

func bytesRate(n float64) string { return bytesText(n) + "/s" }

func perSecond(n float64) string {
	switch {
	case n >= 1e6:
		return digits(n/1e6) + "M/s"
	case n >= 1e4:
		return digits(n/1e3) + "k/s"
	case n > 0 && n < 0.05:
		return "<0.1/s"
	case n > 0 && n < 10:
		return fmt.Sprintf("%.1f/s", n)
	}
	return fmt.Sprintf("%.0f/s", n)
}

// digits is a number below 1000 with three digits or so.
func digits(n float64) string {
	switch {
	case n < 10:
		return fmt.Sprintf("%.2f", n)
	case n < 100:
		return fmt.Sprintf("%.1f", n)
	}
	return fmt.Sprintf("%.0f", n)
}

// count is a whole number, short where it is large.
func count(v any) string {
	var n float64
	switch v := v.(type) {
	case int:
		n = float64(v)
	case int64:
		n = float64(v)
	}
	switch {
	case n >= 1e9:
		return digits(n/1e9) + "G"
	case n >= 1e6:
		return digits(n/1e6) + "M"
	case n >= 1e5:
		return digits(n/1e3) + "k"
	}
	return fmt.Sprintf("%.0f", n)
}

// duration is a short time in a unit that fits; a dash for none.
func duration(d time.Duration) string {
	switch {
	case d <= 0:
		return "–"
	case d < time.Millisecond:
		return digits(float64(d)/1e3) + " µs"
	case d < time.Second:
		return digits(float64(d)/1e6) + " ms"
	}
	return digits(d.Seconds()) + " s"
}

// age is a time that goes by, in its two largest units.
func age(d time.Duration) string {
	s := int64(max(d, 0) / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm %ds", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%dh %dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd %dh", s/86400, s/3600%24)
}

// percent is part of whole; empty for nothing.
func percent(part, whole int64) string {
	if whole == 0 || part == 0 {
		return ""
	}
	p := 100 * float64(part) / float64(whole)
	if p < 0.1 {
		return "<0.1%"
	}
	return fmt.Sprintf("%.1f%%", p)
}

// perFrame is how many messages share a frame.
func perFrame(f grid.FlowStats) string {
	if f.Frames == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f", float64(f.Messages)/float64(f.Frames))
}
