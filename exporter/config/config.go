package config

import (
	"github.com/kubelogexporter/kubelogexporter/exporter/selection"
)

// APIVersion and Kind are the first two keys of every file.
const (
	APIVersion = "kubelogexporter.dev/v1alpha1"
	Kind       = "Config"
)

// Config is a configuration without mistakes. The tags of the fields are the only description of the
// file: from them it is read, checked and printed, and schema.json and CONFIG.md are made.
//
//	key       its name in the file            flag      the command's flag that goes first
//	default   what counts if it is not there  required  it must be there
//	doc       what it means                   enum      the values there are
//	env       ${VAR} may stand in it          raw       "$" means nothing in it
//	min, max  bounds, inclusive; 0 is allowed with zero
//	check     a check of its own, see check.go
//	example   for the reference               part      the flag that says it among other things
type Config struct {
	APIVersion    string        `key:"apiVersion" required:"yes" enum:"kubelogexporter.dev/v1alpha1" doc:"The version of this format."`
	Kind          string        `key:"kind" required:"yes" enum:"Config" doc:"Always Config."`
	Cluster       string        `key:"cluster" env:"yes" flag:"cluster" check:"cluster" example:"prod-eu-1" doc:"The cluster's name in the archive. Without it, the kubeconfig's name for it; in a pod \"default\"."`
	Kubernetes    Kubernetes    `key:"kubernetes" doc:"How the API server is reached. In a pod nothing is needed."`
	Sink          Sink          `key:"sink" doc:"Where the archive is: a bucket or a directory."`
	Spool         Spool         `key:"spool" doc:"Where captures wait until they are in the sink."`
	Limits        Limits        `key:"limits" doc:"How much is done at a time. Of these, reads, readRate and uploads count for export too, the others for run only."`
	Kubelets      Kubelets      `key:"kubelets" doc:"What is known of the kubelets, and whether their own files may be read; by export, those of containers that have ended."`
	HTTP          HTTP          `key:"http" doc:"What run serves; export serves nothing."`
	Log           Log           `key:"log" doc:"How the program reports on itself, on stderr."`
	Notifications Notifications `key:"notifications" doc:"Who is told of what was archived."`
	Exports       []Export      `key:"exports" doc:"What is exported, and how. The first export whose selection matches a run decides for it; what none selects is not read. Without this key there is one export that takes everything."`

	// Warnings are what is allowed and still looks wrong.
	Warnings Errors

	origins map[string]origin
}

// Selections are those of the exports, in their order.
func (c *Config) Selections() selection.Exports {
	all := make(selection.Exports, len(c.Exports))
	for i, e := range c.Exports {
		all[i] = e.Compiled
	}
	return all
}

// Kubernetes says how the API server is reached.
type Kubernetes struct {
	Kubeconfig string `key:"kubeconfig" env:"yes" flag:"kubeconfig" doc:"A kubeconfig file. Without it $KUBECONFIG, then ~/.kube/config; in a pod the service account."`
	Context    string `key:"context" env:"yes" flag:"context" doc:"The kubeconfig's context."`
}

// Sink is where the archive is. One of the two is set.
type Sink struct {
	Dir string `key:"dir" env:"yes" part:"sink" example:"/archive" doc:"A directory. The default, if there is no s3 either, is ./kubelogs."`
	S3  *S3    `key:"s3" doc:"A bucket in an S3-compatible store."`
}

// S3 is a bucket.
type S3 struct {
	Bucket              string            `key:"bucket" required:"yes" env:"yes" part:"sink" check:"bucket" example:"my-logs" doc:"The bucket's name."`
	Prefix              string            `key:"prefix" env:"yes" part:"sink" check:"prefix" example:"clusters/prod" doc:"What every key begins with. Nothing is ever deleted here: how long logs are kept is for rules of the bucket's lifecycle to say, each for a prefix such as clusters/prod/cluster=prod/namespace=shop/. deploy/README.md has an example."`
	Endpoint            string            `key:"endpoint" env:"yes" flag:"s3-endpoint" check:"endpoint" example:"https://minio.example:9000" doc:"The store's URL. Without it AWS. http:// switches TLS off."`
	Region              string            `key:"region" env:"yes" flag:"s3-region" check:"word" example:"eu-west-1" doc:"The bucket's region. Without it that of AWS_REGION or AWS_DEFAULT_REGION, else us-east-1, which most other stores take."`
	PathStyle           string            `key:"pathStyle" flag:"s3-path-style" enum:"auto,on,off" default:"auto" doc:"Whether the bucket stands in the URL's path instead of its host."`
	CAFile              string            `key:"caFile" env:"yes" flag:"s3-ca-file" doc:"PEM certificates that are trusted beside the system's."`
	Credentials         string            `key:"credentials" flag:"s3-credentials" enum:"auto,env,files,shared,web-identity,pod-identity,instance-role" default:"auto" doc:"Where the keys come from. With auto the first place that is configured counts. The keys themselves never stand in this file."`
	AccessKeyIDFile     string            `key:"accessKeyIDFile" env:"yes" flag:"s3-access-key-id-file" example:"/var/run/s3/access-key-id" doc:"A file with the access key ID, such as a mounted Secret's; read again when it changes."`
	SecretAccessKeyFile string            `key:"secretAccessKeyFile" env:"yes" flag:"s3-secret-access-key-file" doc:"A file with the secret access key."`
	SessionTokenFile    string            `key:"sessionTokenFile" env:"yes" flag:"s3-session-token-file" doc:"A file with the session token, if there is one."`
	SSE                 *SSE              `key:"sse" doc:"Encryption by the store. Without it the bucket's own default."`
	StorageClass        string            `key:"storageClass" check:"storageClass" example:"STANDARD_IA" doc:"The objects' storage class. Most classes but STANDARD bill at least 128 KiB for each object, and most logs are smaller."`
	ObjectLock          *ObjectLock       `key:"objectLock" doc:"How long no object may be deleted or changed. The bucket must have object lock enabled."`
	Tags                map[string]string `key:"tags" check:"tags" doc:"Tags of every object, 10 at most. A rule of the bucket's lifecycle can filter by them."`
	Checksum            string            `key:"checksum" enum:"sha256,crc64nvme" doc:"A checksum that the store keeps beside each object; not every store knows it. MD5 and the signed SHA-256 are always sent."`
}

// SSE is server-side encryption.
type SSE struct {
	Type     string `key:"type" required:"yes" enum:"s3,kms" doc:"s3 for SSE-S3, kms for SSE-KMS."`
	KMSKeyID string `key:"kmsKeyID" env:"yes" doc:"The key for kms. Without it the account's own."`
}

// ObjectLock is a retention.
type ObjectLock struct {
	Mode   string   `key:"mode" required:"yes" enum:"governance,compliance" doc:"governance: some may lift it; compliance: nobody, not even the account's root."`
	Retain Duration `key:"retain" required:"yes" min:"1d" max:"36500d" example:"30d" doc:"For how long, counted from the upload."`
}

// Spool is where captures wait.
type Spool struct {
	Path    string `key:"path" env:"yes" flag:"spool" example:"/spool" doc:"A directory. Without it one in a directory sink, else one in the user's cache directory."`
	MaxSize Size   `key:"maxSize" flag:"spool-max-size" min:"16Mi" zero:"yes" default:"0" example:"4Gi" doc:"How large it may grow; 0 is no limit but the room on its file system. On an emptyDir it must be below sizeLimit, or the kubelet evicts the pod when the storage is away for long, and the spool is lost."`
	MinFree Size   `key:"minFree" default:"0" example:"256Mi" doc:"How much room is left free on its file system; 0 means 64Mi."`
}

// Limits bound what is done at a time.
type Limits struct {
	Follows        int      `key:"follows" min:"1" max:"100000" default:"2048" doc:"Streams of pods that are being deleted. Of one node there are 96 at most, those of running containers included."`
	Reads          int      `key:"reads" min:"1" max:"100000" default:"64" doc:"Reads of logs of containers that have ended."`
	LiveFollows    int      `key:"liveFollows" min:"1" max:"1000000" default:"4096" doc:"Streams of running containers on all nodes together."`
	FollowsPerNode int      `key:"followsPerNode" flag:"follows-per-node" min:"1" max:"10000" default:"32" doc:"Streams of running containers on one node; each takes one inotify instance there. Logs beyond are read every few seconds."`
	ReadRate       Size     `key:"readRate" flag:"read-rate" min:"64Ki" zero:"yes" default:"0" example:"50Mi" doc:"Bytes of log per second to read at most; 0 is no limit. Logs that vanish within seconds, of dying pods and of runs that may be replaced, are never held up."`
	Uploads        int      `key:"uploads" min:"1" max:"1024" default:"16" doc:"Captures that are uploaded at a time. Those of 1 MiB and more have a quarter as many places beside, one at least."`
	Grace          Duration `key:"grace" flag:"grace" min:"0s" max:"1d" default:"20s" doc:"How long to finish open captures after the first signal; 0 is not at all. A pod's terminationGracePeriodSeconds must be longer."`
}

// Kubelets say what the kubelets are like.
type Kubelets struct {
	NodeLogs             string `key:"nodeLogs" flag:"node-logs" enum:"off,recover,prefer" default:"off" doc:"What the kubelets' own log files are used for: off; recover, for what the API cannot give; prefer, wherever there are some. Needs the right to get nodes/log, which opens all of /var/log on the nodes."`
	CAFile               string `key:"caFile" env:"yes" flag:"kubelet-ca" doc:"The authority that signs the kubelets' certificates. Without it the cluster's."`
	InsecureSkipVerify   bool   `key:"insecureSkipVerify" flag:"kubelet-insecure-skip-verify" default:"false" doc:"Do not check the kubelets' certificates: whoever answers at a node's address gets the exporter's token."`
	Port                 int    `key:"port" flag:"kubelet-port" min:"1" max:"65535" default:"10250" doc:"The kubelets' port."`
	ContainerLogMaxSize  Size   `key:"containerLogMaxSize" flag:"container-log-max-size" min:"1Ki" default:"1Mi" doc:"The smallest containerLogMaxSize of the cluster's kubelets, whose own default is 10Mi: a log that was streamed counts as complete without further proof only below it."`
	ContainerLogMaxFiles int    `key:"containerLogMaxFiles" flag:"container-log-max-files" min:"2" max:"1000" default:"2" doc:"The smallest containerLogMaxFiles of the cluster's kubelets, whose own default is 5: only fewer files on a node than that prove that none was removed."`
}

// HTTP is what the program serves.
type HTTP struct {
	Listen   string    `key:"listen" env:"yes" flag:"listen" check:"listen" example:":8080" doc:"An address for /metrics, /livez and /readyz. Without it nothing is served."`
	Triggers *Triggers `key:"triggers" doc:"Opens POST /v1/exports/NAME, which starts an export (with ?wait it answers when that is done), POST /v1/events, which takes events about pods, and POST /-/reload, which takes over a changed file. Without it none of them is there."`
}

// Triggers are requests that start exports.
type Triggers struct {
	TokenFile string `key:"tokenFile" required:"yes" env:"yes" doc:"A file with the token that a request must bring."`
}

// Log says how the program reports on itself.
type Log struct {
	Format string `key:"format" flag:"log-format" enum:"text,json" default:"text" doc:"The form of log lines."`
	Level  string `key:"level" flag:"log-level" enum:"debug,info,warn,error" default:"info" doc:"The least level to log. An error means that bytes are lost."`
}

// Notifications say who is told.
type Notifications struct {
	CloudEvents *CloudEvents `key:"cloudEvents" doc:"Sends a CloudEvent for each run that was archived."`
}

// CloudEvents is a receiver of CloudEvents.
type CloudEvents struct {
	Sink      string             `key:"sink" required:"yes" env:"yes" check:"url" example:"http://broker-ingress.knative-eventing/shop/default" doc:"The URL that events are posted to."`
	Overrides CloudEventOverride `key:"overrides" doc:"What is set in every event, as K_CE_OVERRIDES has it."`
}

// CloudEventOverride is what is set in every event.
type CloudEventOverride struct {
	Extensions map[string]string `key:"extensions" check:"extensions" doc:"Extension attributes: names of lower-case letters and digits."`
}

// Export is one selection of runs and what is done with them.
type Export struct {
	Name        string     `key:"name" required:"yes" check:"name" example:"crashes" doc:"The export's name: lower-case letters, digits and \"-\"."`
	Selection   Selection  `key:"selection" doc:"Which runs it takes. What is left out selects everything."`
	Capture     string     `key:"capture" flag:"capture" enum:"final,live" default:"final" doc:"When logs are read: final, when a container has ended; live, from its start on, for logs that the kubelet rotates and pods that are deleted by force. The command export reads each log once, as it is then."`
	Compression string     `key:"compression" flag:"compression" enum:"zstd,gzip" default:"zstd" doc:"How logs are compressed."`
	Redact      *Redaction `key:"redact" doc:"What is replaced in logs before they are stored. Without it nothing is."`
	Schedule    *Schedule  `key:"schedule" doc:"When the export starts. Without it, it always watches for runs that end. With watchFor each start opens a window in which runs that end are exported. Alone, each start is a sweep: what the selected running and ended containers have written since the last sweep."`
	WatchFor    Duration   `key:"watchFor" min:"1m" max:"366d" zero:"yes" default:"0s" example:"2h" doc:"How long a window stays open that schedule opens. A run belongs to the window that it ends in, so capture live, @every, and what the schedule says of late, missed and overlapping starts are not possible with it."`

	// Compiled is Selection, ready for use.
	Compiled *selection.Selection
}

// Selection says which runs an export takes.
type Selection struct {
	Namespaces        []string `key:"namespaces" example:"[prod-*, shop]" doc:"Namespaces, as globs: *, ?, [a-z], [^a-z]."`
	ExcludeNamespaces []string `key:"excludeNamespaces" example:"[kube-*]" doc:"Namespaces to leave out, as globs."`
	Pods              []string `key:"pods" doc:"Pods' names, as globs."`
	ExcludePods       []string `key:"excludePods" doc:"Pods to leave out, as globs."`
	Containers        []string `key:"containers" doc:"Containers' names, as globs."`
	ExcludeContainers []string `key:"excludeContainers" example:"[istio-proxy]" doc:"Containers to leave out, as globs."`
	Labels            string   `key:"labels" example:"app=cart,tier!=cache" doc:"A label selector for pods."`
	Fields            string   `key:"fields" example:"spec.nodeName=node-1" doc:"A field selector for pods: metadata.name, metadata.namespace, spec.nodeName, spec.serviceAccountName, status.phase. The phase is that at the run's end."`
	OwnerKinds        []string `key:"ownerKinds" example:"[Job, None]" doc:"Kinds of the pod's own controller: ReplicaSet (not Deployment), StatefulSet, DaemonSet, Job (not CronJob), others; None for pods without one."`
	ContainerKinds    []string `key:"containerKinds" enum:"container,initContainer,sidecar,ephemeralContainer" doc:"Kinds of containers."`
	Expression        string   `key:"expression" raw:"yes" example:"container.exitCode != 0" doc:"A CEL expression that must be true. If it cannot be computed for a run, the run is taken, and the error is told."`
}

// Spec returns what package selection compiles.
func (s Selection) Spec() selection.Spec {
	return selection.Spec{
		Namespaces: s.Namespaces, ExcludeNamespaces: s.ExcludeNamespaces, Pods: s.Pods, ExcludePods: s.ExcludePods,
		Containers: s.Containers, ExcludeContainers: s.ExcludeContainers, Labels: s.Labels, Fields: s.Fields,
		OwnerKinds: s.OwnerKinds, ContainerKinds: s.ContainerKinds, Expression: s.Expression,
	}
}

// Schedule says when an export starts.
type Schedule struct {
	Cron              string   `key:"cron" required:"yes" raw:"yes" example:"0 3 * * *" doc:"Five fields (minute, hour, day of month, month, day of week), @hourly, @daily, @weekly, @monthly, @yearly, or @every with a duration."`
	TimeZone          string   `key:"timeZone" check:"zone" default:"UTC" example:"Europe/Berlin" doc:"A zone of the IANA database. When its clock is put forward, a time in the gap runs right after it; when it is put back, one in the overlap runs once. Lines whose hour is * or */n, or that name every hour, go on by the clock: no start in the gap, and those in the overlap both times."`
	ConcurrencyPolicy string   `key:"concurrencyPolicy" enum:"Forbid,Allow,Replace" default:"Forbid" doc:"What happens if the last start is still at work: Forbid skips the new one, Allow lets both go on, Replace ends the old one."`
	StartingDeadline  Duration `key:"startingDeadline" min:"1m" zero:"yes" default:"0s" doc:"How late a start may be; 0 is no limit."`
	CatchUp           string   `key:"catchUp" enum:"none,last" default:"none" doc:"Whether the last start that was missed is made up for."`
	Jitter            Duration `key:"jitter" max:"1d" default:"0s" doc:"Spreads exports with the same line: each starts later by a time below this that depends on its name."`
	Suspend           bool     `key:"suspend" default:"false" doc:"Starts nothing."`
}

// Redaction says what is replaced in logs.
type Redaction struct {
	Builtin Builtin `key:"builtin" default:"all" doc:"The built-in rules: all, none, or a list of names."`
	Rules   []Rule  `key:"rules" doc:"Rules of your own."`
}

// Builtin picks built-in rules.
type Builtin struct {
	All   bool
	Names []string
}

// Rule replaces what a regular expression matches.
type Rule struct {
	Name    string `key:"name" required:"yes" check:"name" doc:"The rule's name: lower-case letters, digits and \"-\"."`
	Pattern string `key:"pattern" required:"yes" raw:"yes" check:"regexp" example:"token=(?P<secret>\\S+)" doc:"A regular expression of Go. If it has a group named secret, only that is replaced."`
	Replace string `key:"replace" raw:"yes" doc:"What stands for it. Without it [REDACTED:name]."`
}
