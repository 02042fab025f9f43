package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// One day: a testbed does not live longer, and what a person copies out of it soon opens nothing.
const validity = 24 * time.Hour

// An authority is the cluster's only root, for serving and for client certificates.
type authority struct {
	certificate *x509.Certificate
	der         []byte
	key         crypto.Signer
}

// certsCommand writes every key a new cluster needs into one empty directory: ca.crt, ca.key,
// apiserver.crt, apiserver.key, service-account.key and .pub, and one kubeconfig per user.
func certsCommand() *cobra.Command {
	var directory, server, outside string
	var addresses, nodes []string
	command := &cobra.Command{
		Use:          "certs",
		Short:        "Write the keys and kubeconfigs of a new cluster",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(*cobra.Command, []string) error {
			return writeCerts(directory, server, outside, addresses, nodes)
		},
	}
	flags := command.Flags()
	flags.StringVar(&directory, "directory", "", "where to write")
	flags.StringVar(&server, "server", "", "URL of the API server for the cluster's own parts")
	flags.StringVar(&outside, "outside", "", "URL of the API server for people")
	flags.StringSliceVar(&addresses, "address", nil, "address the API server is reached at")
	flags.StringSliceVar(&nodes, "node", nil, "name of a node")
	return command
}

func writeCerts(directory, server, outside string, addresses, nodes []string) error {
	ca, err := newAuthority()
	if err != nil {
		return fmt.Errorf("cannot make the authority: %w", err)
	}
	if err := writePair(directory, "ca", ca.der, ca.key); err != nil {
		return err
	}
	if err := ca.writeServer(directory, addresses); err != nil {
		return err
	}
	if err := writeServiceAccountKeys(directory); err != nil {
		return err
	}
	// The names and groups are those RBAC's built-in bindings and the Node authorizer look for.
	users := []struct {
		file, server string
		subject      pkix.Name
	}{
		{"admin", outside, pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}}},
		{"bootstrap", server, pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}}},
		{"controller-manager", server, pkix.Name{CommonName: "system:kube-controller-manager"}},
		{"scheduler", server, pkix.Name{CommonName: "system:kube-scheduler"}},
	}
	for _, user := range users {
		if err := ca.writeKubeconfig(directory, user.file, user.server, user.subject); err != nil {
			return err
		}
	}
	for _, node := range nodes {
		subject := pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}}
		if err := ca.writeKubeconfig(directory, node, server, subject); err != nil {
			return err
		}
	}
	return nil
}

func newAuthority() (*authority, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	template := newTemplate(pkix.Name{CommonName: "herald-testbed"})
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return &authority{certificate, der, key}, err
}

func (ca *authority) issue(template *x509.Certificate) ([]byte, crypto.Signer, error) {
	key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, ca.certificate, key.Public(), ca.key)
	return der, key, err
}

func (ca *authority) writeServer(directory string, addresses []string) error {
	template := newTemplate(pkix.Name{CommonName: "kube-apiserver"})
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	template.DNSNames = []string{
		"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc.cluster.local",
	}
	for _, address := range addresses {
		ip := net.ParseIP(address)
		if ip == nil {
			return fmt.Errorf("not an address: %q", address)
		}
		template.IPAddresses = append(template.IPAddresses, ip)
	}
	der, key, err := ca.issue(template)
	if err != nil {
		return fmt.Errorf("cannot make the API server's certificate: %w", err)
	}
	return writePair(directory, "apiserver", der, key)
}

func (ca *authority) writeKubeconfig(directory, name, server string, subject pkix.Name) error {
	template := newTemplate(subject)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	der, key, err := ca.issue(template)
	if err != nil {
		return fmt.Errorf("cannot make the certificate of %s: %w", subject.CommonName, err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["herald-testbed"] = &clientcmdapi.Cluster{
		Server:                   server,
		CertificateAuthorityData: encode("CERTIFICATE", ca.der),
	}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{
		ClientCertificateData: encode("CERTIFICATE", der),
		ClientKeyData:         keyPEM,
	}
	config.Contexts["herald-testbed"] = &clientcmdapi.Context{
		Cluster: "herald-testbed", AuthInfo: name,
	}
	config.CurrentContext = "herald-testbed"
	path := filepath.Join(directory, name+".kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

func writeServiceAccountKeys(directory string) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	private, err := encodeKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := write(directory, "service-account.key", private); err != nil {
		return err
	}
	return write(directory, "service-account.pub", encode("PUBLIC KEY", public))
}

func newTemplate(subject pkix.Name) *x509.Certificate {
	// A minute of grace, should two clocks of a lab ever differ.
	start := time.Now().Add(-time.Minute)
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err) // The kernel has no randomness: nothing sensible can follow.
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: subject, NotBefore: start, NotAfter: start.Add(validity),
	}
}

func newKey() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	return encode("EC PRIVATE KEY", der), err
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func writePair(directory, name string, der []byte, key crypto.Signer) error {
	keyPEM, err := encodeKey(key)
	if err != nil {
		return err
	}
	if err := write(directory, name+".crt", encode("CERTIFICATE", der)); err != nil {
		return err
	}
	return write(directory, name+".key", keyPEM)
}

func write(directory, name string, content []byte) error {
	path := filepath.Join(directory, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}
