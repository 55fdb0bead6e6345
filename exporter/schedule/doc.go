// Package schedule says when an export starts, and starts it. It never decides what an export reads, and
// it never keeps time in a database: what must survive a restart is one time for each name, in a State.
//
// # Lines
//
// A schedule is a line of five fields, as crontab(5) and Kubernetes' CronJob have it,
//
//	minute (0-59)  hour (0-23)  day of month (1-31)  month (1-12 or JAN-DEC)  day of week (0-7 or SUN-SAT)
//
// or one of @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly and "@every <duration>".
// 0 and 7 are both Sunday. If both days are restricted, a day that matches either is a match, as in every
// cron: "0 0 13 * FRI" runs on each 13th and on each Friday. A day field that begins with * and has no
// step does not restrict.
//
// The zone is a field of its own and UTC if it is not set. The zone database is part of the program.
//
// # Daylight saving time
//
// As in Vixie's and ISC's cron there are two sorts of lines.
//
// A line with fixed hours, such as "30 2 * * *", means a time of day, so it runs once for each:
//
//   - A time in the gap, when the clock is put forward, runs at the first valid minute after the gap.
//     Several such times are one start.
//   - A time in the overlap, when the clock is put back, runs the first time only.
//
// A line whose hour begins with *, or that names every hour, such as "*/15 * * * *", "0 * * * *" or
// "0 */2 * * *", means an interval, so it goes on by what the clock shows, whatever that clock does:
// nothing runs in a gap, because no such minute comes, and the minutes of an overlap run both times. So
// "*/15" goes on every 15 minutes of real time.
//
// "@every" does not look at a clock: it counts from the start before.
package schedule
