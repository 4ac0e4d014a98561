package grid

import "slices"

// pastStats is what connections have counted of which nothing runs anymore, because their hosts
// were removed. It is never changed.
type pastStats struct {
	removed        RemovedStats
	served, called []*handlerCounters // as in link; some are nil
}

// with returns the sum of p and what one more connection has counted.
func (p *pastStats) with(c ConnectionStats, served, called []*handlerCounters) *pastStats {
	sum := &pastStats{
		removed: p.removed,
		served:  sumCounters(p.served, served),
		called:  sumCounters(p.called, called),
	}
	sum.removed.Hosts++
	sum.removed.add(c)
	return sum
}

// sumCounters returns the sums of two lists of counters, neither of which is changed.
func sumCounters(a, b []*handlerCounters) []*handlerCounters {
	sums := append(slices.Clone(a), make([]*handlerCounters, max(len(b)-len(a), 0))...)
	for i, counters := range b {
		if counters == nil {
			continue
		}
		sum := new(handlerCounters)
		sum.add(counters)
		if sums[i] != nil {
			sum.add(sums[i])
		}
		sums[i] = sum
	}
	return sums
}

// add adds what was counted on a connection.
func (r *RemovedStats) add(c ConnectionStats) {
	r.Connects += c.Connects
	r.Reconnects += c.Reconnects
	r.DialErrors += c.DialErrors
	r.Refused.add(c.Refused)
	r.In.add(c.In)
	r.Out.add(c.Out)
}

func (r *RefusalStats) add(other RefusalStats) {
	r.MaxRequests += other.MaxRequests
	r.MaxRequestBytes += other.MaxRequestBytes
	r.MaxStreams += other.MaxStreams
	r.MaxStreamBytes += other.MaxStreamBytes
}

func (f *FlowStats) add(other FlowStats) {
	f.Bytes += other.Bytes
	f.Messages += other.Messages
	f.Frames += other.Frames
	f.MergedFrames += other.MergedFrames
}
