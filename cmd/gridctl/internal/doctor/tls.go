package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// expiresSoon is how long before its end a certificate is worth a note.
const expiresSoon = 14 * 24 * time.Hour

// secure opens TLS on a connection, if the name of the host asks for it.
func (p *probe) secure(conn net.Conn) (net.Conn, error) {
	if p.url.Scheme != "https" {
		return conn, nil
	}
	config := new(tls.Config)
	if p.TLS != nil {
		config = p.TLS.Clone()
	}
	config.ServerName = p.url.Hostname()
	config.NextProtos = []string{"http/1.1"}
	config.MinVersion = tls.VersionTLS12
	ctx, cancel := context.WithTimeout(p.ctx, p.Timeout)
	defer cancel()
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	end := secure.ConnectionState().PeerCertificates[0].NotAfter
	if left := time.Until(end); left < expiresSoon {
		p.note("its certificate expires on %s; renew it", end.Format(time.DateTime))
	}
	return secure, nil
}

// tlsProblem says what an error of TLS means, empty for other errors. Since TLS 1.3 the other end may
// refuse a certificate only when it is read from.
func (p *probe) tlsProblem(err error) string {
	var (
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		alert     tls.AlertError
		op        *net.OpError
	)
	switch {
	case errors.As(err, &record):
		return fmt.Sprintf("it does not speak TLS; is its name http://%s?", p.url.Host)
	case errors.As(err, &authority):
		return "its certificate is signed by somebody unknown here; give the file with the certificate of who signs them with -ca"
	case errors.As(err, &name):
		return fmt.Sprintf("its certificate is for another name: %s; get one for %s, or use a name that it has", namesOf(name.Certificate), p.url.Hostname())
	case errors.As(err, &invalid):
		return invalidProblem(&invalid)
	case errors.As(err, &op) && op.Op == "remote error", errors.As(err, &alert):
		return alertProblem(err)
	}
	return ""
}

func namesOf(c *x509.Certificate) string {
	names := append([]string(nil), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "none at all"
	}
	return strings.Join(names, ", ")
}

func invalidProblem(invalid *x509.CertificateInvalidError) string {
	switch c, now := invalid.Cert, time.Now(); {
	case invalid.Reason == x509.Expired && now.Before(c.NotBefore):
		return fmt.Sprintf("its certificate is valid only from %s on, and this clock says %s; set the clocks, or wait",
			c.NotBefore.Format(time.DateTime), now.Format(time.DateTime))
	case invalid.Reason == x509.Expired:
		return fmt.Sprintf("its certificate, or that of who signed it, expired on %s, and this clock says %s; renew it, or set the clock",
			c.NotAfter.Format(time.DateTime), now.Format(time.DateTime))
	}
	return "its certificate is not valid: " + invalid.Error()
}

func alertProblem(err error) string {
	switch text := err.Error(); {
	case strings.Contains(text, "certificate required"), strings.Contains(text, "handshake failure"):
		return "it wants a certificate of this node (" + lastPart(text) + "); give one that it trusts with -cert and -key"
	case strings.Contains(text, "certificate"), strings.Contains(text, "unknown certificate authority"):
		return "it does not take the certificate of this node (" + lastPart(text) + "); have one signed by an authority that it knows"
	case strings.Contains(text, "protocol version"):
		return "it does not speak TLS 1.2 or later; it has to"
	}
	return "it ended the TLS connection: " + err.Error()
}

// lastPart is the end of a text with colons.
func lastPart(text string) string {
	return strings.TrimSpace(text[strings.LastIndex(text, ":")+1:])
}
