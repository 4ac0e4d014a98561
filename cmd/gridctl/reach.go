package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gridmesh/grid"
)

const (
	// probeAfter is when a node that is not connected yet is asked why.
	probeAfter = time.Second
	// probeTimeout bounds asking one node.
	probeTimeout = 2 * time.Second
)

// reach waits for the nodes of a grid and says why one is out of reach.
type reach struct {
	member  *member
	config  *memberConfig
	reasons *reasonLog
}

// obstacle is why there is no connection to a node.
type obstacle struct {
	text  string
	final bool // waiting does not help
}

// absence is a node that is out of reach, and why.
type absence struct {
	Host   string `json:"host"`
	Reason string `json:"reason"`
}

// waitForAll returns the nodes that are not connected within limit, sooner where waiting does not
// help.
func (r *reach) waitForAll(ctx context.Context, limit time.Duration) (absent []absence, err error) {
	end := time.Now().Add(limit)
	missing := r.wait(ctx, min(limit, probeAfter))
	if len(missing) > 0 && limit > probeAfter && !r.anyFinal(ctx, missing) {
		missing = r.wait(ctx, time.Until(end))
	}
	switch {
	case len(missing) == 0:
		return nil, nil
	case ctx.Err() != nil:
		return nil, errInterrupted
	}
	for i, o := range r.ask(ctx, missing) {
		absent = append(absent, absence{missing[i], o.text})
	}
	return absent, nil
}

// wait returns the nodes that are not connected after d.
func (r *reach) wait(ctx context.Context, d time.Duration) (missing []string) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for _, host := range r.member.Targets() {
		if r.member.Connection(host).WaitForConnect(ctx) != nil {
			missing = append(missing, host)
		}
	}
	return missing
}

func (r *reach) anyFinal(ctx context.Context, hosts []string) bool {
	for _, o := range r.ask(ctx, hosts) {
		if o.final {
			return true
		}
	}
	return false
}

// ask finds out what stands between this node and each of hosts.
func (r *reach) ask(ctx context.Context, hosts []string) []obstacle {
	found := make([]obstacle, len(hosts))
	var wg sync.WaitGroup
	for i, host := range hosts {
		wg.Go(func() { found[i] = r.obstacle(ctx, host) })
	}
	wg.Wait()
	return found
}

// obstacle asks one node over plain HTTP: of two nodes only one dials the
// other, and this may be the one that does not.
func (r *reach) obstacle(ctx context.Context, host string) obstacle {
	status, err := r.probe(ctx, host)
	if err != nil {
		return probeError(err)
	}
	switch status {
	case http.StatusForbidden:
		return obstacle{"it refused the secret; check -secret-file there and here", true}
	case http.StatusUpgradeRequired:
		return r.noConnection(host)
	case http.StatusBadRequest:
		return obstacle{"it does not speak plain http; is its name https://?", false}
	case http.StatusNotFound:
		return obstacle{"a web server that is no grid node answers there", false}
	}
	return obstacle{fmt.Sprintf("it answered with status %d %s", status, http.StatusText(status)), false}
}

// noConnection is the obstacle of a node that answers and takes the secret.
func (r *reach) noConnection(host string) obstacle {
	dialing := r.member.Connection(host).State() != grid.StateUnconnected
	switch reason := r.reasons.of(host); {
	case !dialing && r.member.refused.Load() > 0:
		return obstacle{"it showed another secret than this node's, or none; check -secret-file there and here", true}
	case dialing && strings.Contains(reason, "unknown incoming host"):
		return obstacle{fmt.Sprintf("it does not have %s in its -hosts", r.config.local), true}
	case dialing && strings.Contains(reason, "rejected"):
		return obstacle{fmt.Sprintf("it answers, but: %s", reason), false}
	}
	return obstacle{fmt.Sprintf("it answers, but has not connected; check that it has %s in its -hosts, and can reach it", r.config.local), false}
}

// probe asks host for the route without an upgrade. Status 426 is the good answer.
func (r *reach) probe(ctx context.Context, host string) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, host+grid.RoutePath, nil)
	if err != nil {
		return 0, err
	}
	if r.config.secret != "" {
		req.Header.Set("Authorization", "Bearer "+r.config.secret)
	}
	transport := &http.Transport{TLSClientConfig: r.config.clientTLS, DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	return resp.StatusCode, nil
}

// probeError says what an error of probe means.
func probeError(err error) obstacle {
	var (
		dns       *net.DNSError
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
	)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return obstacle{"nothing listens there; is the node running?", false}
	case errors.Is(err, context.DeadlineExceeded):
		return obstacle{"no answer; is the node running, and does a firewall let this through?", false}
	case errors.As(err, &dns):
		return obstacle{"its name is not known: " + dns.Err, false}
	case errors.As(err, &authority):
		return obstacle{"its certificate is signed by somebody unknown; give the file with that certificate with -ca", true}
	case errors.As(err, &name):
		return obstacle{"its certificate is for another name: " + name.Error(), true}
	case errors.As(err, &invalid):
		return obstacle{"its certificate is not valid: " + invalid.Error(), true}
	case errors.As(err, &record), strings.Contains(err.Error(), "HTTP response to HTTPS client"):
		return obstacle{"it does not speak https; is its name http://?", true}
	}
	return obstacle{err.Error(), false}
}
