package grid

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// VerifyPeerCertificate is a ManagerOptions.VerifyPeer for mutual TLS. The peer's client
// certificate must be valid for the host in the name that the peer claims, or for the whole name of
// a guest (x509.Certificate.VerifyHostname). The HTTP server must request and verify client certificates,
// with tls.Config.ClientAuth = tls.RequireAndVerifyClientCert; a peer without a verified one is
// rejected.
//
// The name of a guest must be as certificates have it: in lower case, without a dot at the end, and
// without brackets. Otherwise one certificate would be good for many names.
//
// A certificate does not name a port, so nodes on one host, and nodes that share a certificate or a
// wildcard, are not told apart.
func VerifyPeerCertificate(r *http.Request, host string) error {
	name, err := certifiedName(host)
	switch {
	case err != nil:
		return err
	case r.TLS == nil:
		return errors.New("no client certificate: the connection came in without TLS")
	case len(r.TLS.PeerCertificates) == 0:
		return errors.New("no client certificate: set ClientAuth of this server's tls.Config to tls.RequireAndVerifyClientCert")
	case len(r.TLS.VerifiedChains) == 0:
		return errors.New("client certificate not verified: set ClientAuth of this server's tls.Config to tls.RequireAndVerifyClientCert")
	}
	if err := r.TLS.VerifiedChains[0][0].VerifyHostname(name); err != nil {
		return fmt.Errorf("client certificate: %w", err)
	}
	return nil
}

// certifiedName returns what a certificate must be valid for.
func certifiedName(host string) (string, error) {
	if !isGuest(host) {
		u, err := url.Parse(host)
		if err != nil {
			return "", err
		}
		return u.Hostname(), nil
	}
	if strings.ToLower(host) != host || strings.HasSuffix(host, ".") || strings.ContainsAny(host, "[]") {
		return "", fmt.Errorf("%q is not how a certificate spells a name", host)
	}
	return host, nil
}
