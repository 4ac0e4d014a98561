package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/gridmesh/grid/contrib/gridauth"
)

// secrets are what a node shows to others, and checks them by.
type secrets struct {
	certificate tls.Certificate
	authority   *x509.CertPool
	key         gridauth.Key
}

// Files in the directory of the secrets, beside HOST.crt and HOST.key of each host.
const (
	authorityFile = "ca.crt"
	secretFile    = "secret"
)

// readSecrets reads those of a node.
func readSecrets(dir, name string) (*secrets, error) {
	host, err := hostOf(name)
	if err != nil {
		return nil, err
	}
	s := &secrets{authority: x509.NewCertPool()}
	if s.certificate, err = tls.LoadX509KeyPair(filepath.Join(dir, host+".crt"), filepath.Join(dir, host+".key")); err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(filepath.Join(dir, authorityFile))
	if err != nil {
		return nil, err
	}
	if !s.authority.AppendCertsFromPEM(authority) {
		return nil, fmt.Errorf("no certificate in %s", filepath.Join(dir, authorityFile))
	}
	secret, err := os.ReadFile(filepath.Join(dir, secretFile))
	if err != nil {
		return nil, err
	}
	s.key = gridauth.Key{ID: "1", Secret: bytes.TrimSpace(secret)}
	return s, nil
}

// prepareSecrets is writeSecrets for a directory that has none: nodes that use those would not know
// new ones. With force it replaces them.
func prepareSecrets(dir string, names []string, force bool) error {
	for _, name := range names { // before anything is replaced
		if _, err := hostOf(name); err != nil {
			return err
		}
	}
	authority := filepath.Join(dir, authorityFile)
	if _, err := os.Stat(authority); err == nil && !force {
		return fmt.Errorf("%s is there already: nodes that use it would not know new ones; -force replaces all in %s", authority, dir)
	}
	return writeSecrets(dir, names)
}

// writeSecrets makes an authority, a certificate for each host, and a secret, all for a month. In
// production, an authority of the cluster's own does that, its key is not on the nodes, and each
// node has its own key alone.
func writeSecrets(dir string, names []string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	ca, caKey, err := certificate(&x509.Certificate{
		Subject: pkix.Name{CommonName: "example authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	if err != nil {
		return err
	}
	if err := writePEM(filepath.Join(dir, authorityFile), "CERTIFICATE", ca.Raw); err != nil {
		return err
	}
	for _, name := range names {
		host, err := hostOf(name)
		if err != nil {
			return err
		}
		template := &x509.Certificate{
			Subject:     pkix.Name{CommonName: host},
			KeyUsage:    x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, // a node is both
		}
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = []net.IP{ip}
		} else {
			template.DNSNames = []string{host}
		}
		cert, key, err := certificate(template, ca, caKey)
		if err != nil {
			return err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		if err := writePEM(filepath.Join(dir, host+".crt"), "CERTIFICATE", cert.Raw); err != nil {
			return err
		}
		if err := writePEM(filepath.Join(dir, host+".key"), "PRIVATE KEY", der); err != nil {
			return err
		}
	}
	secret := make([]byte, gridauth.MinSecret)
	rand.Read(secret) // never fails
	return replaceFile(filepath.Join(dir, secretFile), []byte(hex.EncodeToString(secret)+"\n"))
}

// certificate makes a certificate with a new key, signed by parent, or by itself where that is nil.
func certificate(template, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return nil, nil, err
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().AddDate(0, 1, 0)
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

func writePEM(file, kind string, der []byte) error {
	return replaceFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// replaceFile writes a file that its owner alone can read, whoever could read the one that it
// replaces.
func replaceFile(file string, b []byte) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}

// hostOf returns the host of a node's name.
func hostOf(name string) (string, error) {
	u, err := url.Parse(name)
	if err != nil {
		return "", err
	}
	if u.Hostname() == "" || u.Scheme != "https" {
		return "", fmt.Errorf("%q is no name of a node: want https://host:port", name)
	}
	return u.Hostname(), nil
}
