package top

import (
	"fmt"
	"time"
)

// none stands for what is not known.
const none = "–"

func unknown(f figures, text string) string {
	if f.over <= 0 {
		return none
	}
	return text
}

// rateCell is n of what was counted, in a second.
func rateCell(f figures, n int64, format func(float64) string) cell {
	if f.over <= 0 {
		return number(none, -1)
	}
	r := float64(n) / f.over.Seconds()
	return number(format(r), r)
}

func countRate(r float64) string {
	switch {
	case r >= 1e6:
		return fmt.Sprintf("%.1fM", r/1e6)
	case r >= 1e5:
		return fmt.Sprintf("%.0fk", r/1e3)
	case r >= 10 || r == 0:
		return fmt.Sprintf("%.0f", r)
	case r < 0.05:
		return "<0.1"
	}
	return fmt.Sprintf("%.1f", r)
}

func byteRate(r float64) string { return byteText(r) + "/s" }

func byteText(n float64) string {
	if n < 1000 {
		return fmt.Sprintf("%.0f B", n)
	}
	for _, unit := range "kMGTP" {
		if n /= 1000; n < 9.995 {
			return fmt.Sprintf("%.1f %cB", n, unit)
		} else if n < 999.5 || unit == 'P' {
			return fmt.Sprintf("%.0f %cB", n, unit)
		}
	}
	return ""
}

func durationCell(d time.Duration) cell {
	switch {
	case d <= 0:
		return number(none, 0)
	case d < time.Millisecond:
		return number(fmt.Sprintf("%d µs", d.Microseconds()), d.Seconds())
	case d < 10*time.Millisecond:
		return number(fmt.Sprintf("%.1f ms", d.Seconds()*1e3), d.Seconds())
	case d < time.Second:
		return number(fmt.Sprintf("%d ms", d.Milliseconds()), d.Seconds())
	}
	return number(fmt.Sprintf("%.1f s", d.Seconds()), d.Seconds())
}

func ageCell(d time.Duration) cell {
	if d <= 0 {
		return number(none, 0)
	}
	return number(age(d), d.Seconds())
}

func age(d time.Duration) string {
	s := int64(max(d, 0) / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%ds", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%dh%dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd%dh", s/86400, s/3600%24)
}
