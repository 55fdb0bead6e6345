// Package notify tells others of archived runs, as CloudEvents over HTTP. It never delays or fails an
// archiving: an event that cannot be delivered is given up and counted, and the archive is the truth.
//
// An event is sent in structured mode, as one JSON document:
//
//	specversion  1.0
//	type         dev.kubelogexporter.run.archived.v1
//	source       Options.Source
//	id           of the record's key: the same for every attempt, replica and restart, so that a
//	             receiver can drop what it has seen
//	subject      the record's key
//	time         when the record came to rest in the bucket
//	dataref      Options.Archive and the key, if Archive is set
//	data         the record, as FORMAT.md describes it; left out if it is larger than Options.MaxData
//
// Events wait in memory: a restart loses those that were not delivered, and so does a receiver that is away
// for longer than Options.MaxAge or Options.MaxEvents bear. Whoever must not miss a run lists the archive.
// Up to Workers events are on their way at a time, so they may arrive in another order.
package notify
