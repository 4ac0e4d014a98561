package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"
)

// maxAddresses bounds how many addresses of a name are tried.
const maxAddresses = 8

// visit examines one host.
type visit struct {
	*Options
	ctx    context.Context
	report *Report
	url    *url.URL
}

func (v *visit) problem(format string, a ...any) { v.report.add(Problem, fmt.Sprintf(format, a...)) }

// run goes from step to step, at each address of the host.
func (v *visit) run() {
	var err error
	if v.url, err = url.Parse(v.report.Host); err != nil {
		v.problem("%v", err)
		return
	}
	addresses, err := v.resolve()
	if err != nil {
		v.problem("%s", resolveProblem(v.url.Hostname(), err))
		return
	}
	v.report.Addresses = addresses
	found := make([]processID, 0, len(addresses))
	for _, address := range addresses {
		p := &probe{visit: v, address: address, several: len(addresses) > 1}
		if p.run() && p.process != (processID{}) {
			found = append(found, p.process)
		}
	}
	slices.SortFunc(found, func(a, b processID) int { return slices.Compare(a[:], b[:]) })
	if len(slices.Compact(found)) > 1 {
		v.problem("one name leads to several processes, at %s; each node needs a name and an address of its own", strings.Join(addresses, " and "))
	}
}

// resolve returns the network addresses of the host.
func (v *visit) resolve() (addresses []string, err error) {
	ctx, cancel := context.WithTimeout(v.ctx, v.Timeout)
	defer cancel()
	name := v.url.Hostname()
	port := cmp.Or(v.url.Port(), map[string]string{"http": "80", "https": "443"}[v.url.Scheme])
	if ip, err := netip.ParseAddr(name); err == nil {
		return []string{net.JoinHostPort(ip.String(), port)}, nil
	}
	found, err := v.lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	for _, ip := range found[:min(len(found), maxAddresses)] {
		addresses = append(addresses, net.JoinHostPort(ip, port))
	}
	return v.reachable(addresses), nil
}

// reachable leaves out the addresses of a family at which nobody listens, where somebody does at
// one of the other: localhost is ::1 too, and most servers listen at 127.0.0.1 alone. Where nobody
// listens at all, one address will do.
func (v *visit) reachable(addresses []string) []string {
	if len(addresses) < 2 {
		return addresses
	}
	open := slices.DeleteFunc(slices.Clone(addresses), func(address string) bool {
		conn, err := v.dial(address)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	if len(open) == 0 {
		return addresses[:1]
	}
	isV6 := func(address string) bool { return strings.HasPrefix(address, "[") }
	return slices.DeleteFunc(addresses, func(address string) bool {
		return !slices.ContainsFunc(open, func(o string) bool { return isV6(o) == isV6(address) })
	})
}

func resolveProblem(name string, err error) string {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Sprintf("there is no host %s; correct the name, or add it to DNS or to /etc/hosts on this machine", name)
	case errors.As(err, &dns) && dns.IsTimeout, errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("DNS does not answer when asked for %s; check the name servers of this machine, in /etc/resolv.conf", name)
	}
	return fmt.Sprintf("cannot find the address of %s: %v; check the name servers of this machine", name, err)
}

// dial opens a network connection.
func (v *visit) dial(address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(v.ctx, v.Timeout)
	defer cancel()
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}

// dialProblem says what an error of dial means.
func (v *visit) dialProblem(address string, err error) string {
	var late net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("nothing listens at %s (connection refused); start the node, or correct its port", address)
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return fmt.Sprintf("no route to %s; check the network, and whether the name has the right address", address)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &late) && late.Timeout():
		return fmt.Sprintf("no answer from %s within %v; is the machine up, and does a firewall let port %s through?", address, v.Timeout, portOf(address))
	}
	return fmt.Sprintf("cannot connect to %s: %v", address, err)
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}

// short is a duration for people.
func short(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2f ms", d.Seconds()*1e3)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", d.Seconds()*1e3)
	}
	return d.Round(time.Second).String()
}
