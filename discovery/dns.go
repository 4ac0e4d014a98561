package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// DNS returns a Source that asks DNS every 5 seconds. What it asks depends on the host in target,
// which is a name of a node in all else, such as "http://grid.app.svc.cluster.local.:9000":
//
//   - For the addresses of the host. Each is a node, with target's scheme and port, such as
//     "http://10.0.0.1:9000". If there are IPv4 addresses, others do not count: a node that has
//     both kinds has one name.
//   - For the SRV records of the host if it starts with an underscore, such as
//     "https://_grid._tcp.app.example.". Each is a node, with target's scheme and the record's
//     name and port, such as "https://node1.example:9000": in lower case, without a dot at the end.
//     Priorities and weights do not count.
//
// A dot at the end of the host keeps resolvers from trying other domains first. It is not part of
// the names of nodes.
//
// A host that does not exist is a failure. Only names and addresses in DNS are used; ports that
// clients of a service see may be others.
func DNS(target string) *Poll { return DNSWith(net.DefaultResolver, target) }

// DNSWith is DNS with a resolver other than net.DefaultResolver.
func DNSWith(r *net.Resolver, target string) *Poll { return dns(r, target) }

// resolver is what is used of a net.Resolver.
type resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

func dns(r resolver, target string) *Poll {
	find := func(ctx context.Context) ([]string, error) {
		u, err := parseTarget(target)
		switch {
		case err != nil:
			return nil, err
		case isService(u):
			return services(ctx, r, u)
		default:
			return addresses(ctx, r, u)
		}
	}
	return &Poll{Find: find, Name: "dns:" + target}
}

func parseTarget(target string) (*url.URL, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("%q does not start with http:// or https://", target)
	case u.Hostname() == "":
		return nil, fmt.Errorf("%q has no host", target)
	case u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil || u.ForceQuery:
		return nil, fmt.Errorf("%q is more than scheme, host and port", target)
	case isService(u) && u.Port() != "":
		return nil, fmt.Errorf("%q has a port, which is for SRV records to say", target)
	}
	return u, nil
}

func isService(u *url.URL) bool { return strings.HasPrefix(u.Hostname(), "_") }

// addresses asks for IPv4 first, and for IPv6 only where there is no such address. If it asked for
// both at once, half an answer would look like a whole one of the other kind.
func addresses(ctx context.Context, r resolver, u *url.URL) (hosts []string, err error) {
	var ips []netip.Addr
	for _, network := range []string{"ip4", "ip6"} {
		ips, err = r.LookupNetIP(ctx, network, u.Hostname())
		if len(ips) > 0 || err != nil && !isNone(err) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	for _, ip := range ips {
		hosts = append(hosts, name(u.Scheme, ip.Unmap().WithZone("").String(), u.Port()))
	}
	return hosts, nil
}

// isNone reports whether the host has no such address, as far as the server knows.
func isNone(err error) bool {
	if d, ok := errors.AsType[*net.DNSError](err); ok {
		return d.IsNotFound
	}
	_, ok := errors.AsType[*net.AddrError](err) // the host is an address of the other kind
	return ok
}

func services(ctx context.Context, r resolver, u *url.URL) (hosts []string, err error) {
	_, records, err := r.LookupSRV(ctx, "", "", u.Hostname())
	if err != nil {
		return nil, err
	}
	for _, rec := range records {
		target := strings.ToLower(strings.TrimSuffix(rec.Target, "."))
		if target == "" {
			continue // RFC 2782: the service is not available
		}
		hosts = append(hosts, name(u.Scheme, target, strconv.Itoa(int(rec.Port))))
	}
	return hosts, nil
}

// name returns the name of a node.
func name(scheme, host, port string) string {
	switch {
	case port != "":
		host = net.JoinHostPort(host, port)
	case strings.Contains(host, ":"):
		host = "[" + host + "]"
	}
	return scheme + "://" + host
}
