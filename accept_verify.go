package grid

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

// VerifyPeerCertificate is a ManagerOptions.VerifyPeer for mutual TLS: the host
// of the name that a peer says is its own has to be among the names and
// addresses of its client certificate (x509.Certificate.VerifyHostname). The
// HTTP server has to ask for one and verify it, with
// tls.Config.ClientAuth = tls.RequireAndVerifyClientCert; without a verified one the peer is rejected.
//
// The port is no part of a certificate: nodes on one host, and those that
// share a certificate or a wildcard, are not kept apart.
func VerifyPeerCertificate(r *http.Request, host string) error {
	u, err := url.Parse(host)
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
	if err := r.TLS.VerifiedChains[0][0].VerifyHostname(u.Hostname()); err != nil {
		return fmt.Errorf("client certificate: %w", err)
	}
	return nil
}

// verify asks VerifyPeer whether a peer is the host that it says it is.
func (a *acceptor) verify(r *http.Request, host string) error {
	if a.VerifyPeer == nil {
		return nil
	}
	return a.ask("VerifyPeer", r, func() error { return a.VerifyPeer(r, host) })
}

// checkOrigin refuses what the pages of browsers send: a browser can have
// credentials of its own, such as a client certificate, and uses them for any page.
func (a *acceptor) checkOrigin(r *http.Request) error {
	for _, origin := range r.Header.Values("Origin") {
		if a.AllowOrigin == nil || !a.AllowOrigin(origin) {
			return fmt.Errorf("came from a browser, with Origin %q", clip(origin))
		}
	}
	return nil
}
