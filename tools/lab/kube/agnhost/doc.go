//go:build tools

// Package agnhost keeps Kubernetes' own test server, the program of the lab's
// test pods, within this module's requirements.
package agnhost

import _ "k8s.io/kubernetes/test/images/agnhost"
