package gridprom

import (
	"github.com/gridmesh/grid"
	"github.com/prometheus/client_golang/prometheus"
)

// flows are the metrics of what is received and sent: of a peer, of removed hosts or of guests.
type flows [8]*prometheus.Desc

func newFlows(name, whom string, labels []string) flows {
	from, to := " received from "+whom, " sent to "+whom
	in, out := name+"_received_", name+"_sent_"
	return flows{
		metric(in+"bytes_total", "Bytes"+from+", in WebSocket frames.", labels),
		metric(out+"bytes_total", "Bytes"+to+", in WebSocket frames.", labels),
		metric(in+"messages_total", "Messages"+from+".", labels),
		metric(out+"messages_total", "Messages"+to+".", labels),
		metric(in+"frames_total", "Frames with messages"+from+".", labels),
		metric(out+"frames_total", "Frames with messages"+to+".", labels),
		metric(in+"merged_frames_total", "Frames with more than one message"+from+".", labels),
		metric(out+"merged_frames_total", "Frames with more than one message"+to+".", labels),
	}
}

// collect passes each of them to counter, with its value.
func (f *flows) collect(in, out *grid.FlowStats, counter func(d *prometheus.Desc, v int64, more ...string)) {
	for i, v := range [len(f)]int64{
		in.Bytes, out.Bytes, in.Messages, out.Messages, in.Frames, out.Frames, in.MergedFrames, out.MergedFrames,
	} {
		counter(f[i], v)
	}
}
