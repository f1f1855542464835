//! The one place that asks what time it is, and writes times as RFC 3339.

use std::fmt::Write as _;

const US_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// Now, in microseconds since the epoch.
pub fn now_us() -> i64 {
    chrono::Utc::now().timestamp_micros()
}

/// Microseconds since the epoch as RFC 3339 in UTC.
pub fn rfc3339(us: i64) -> String {
    let mut text = String::with_capacity(27);
    write_timestamp(&mut text, us.div_euclid(US_PER_SECOND), u32_or_zero(us.rem_euclid(US_PER_SECOND) * 1000));
    text
}

fn u32_or_zero(value: i64) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

/// Writes an instant as RFC 3339 in UTC, with as many groups of three fractional digits as it needs.
pub fn write_timestamp(out: &mut String, seconds: i64, nanoseconds: u32) {
    write_date(out, seconds.div_euclid(SECONDS_PER_DAY));
    out.push('T');
    write_time(out, u32_or_zero(seconds.rem_euclid(SECONDS_PER_DAY)), nanoseconds);
    out.push('Z');
}

/// Writes a time of day.
pub fn write_time(out: &mut String, seconds: u32, nanoseconds: u32) {
    write_two(out, seconds / 3600);
    out.push(':');
    write_two(out, seconds / 60 % 60);
    out.push(':');
    write_two(out, seconds % 60);
    if nanoseconds == 0 {
        return;
    }
    // Writing to a String cannot fail.
    let _ = if nanoseconds.is_multiple_of(1_000_000) {
        write!(out, ".{:03}", nanoseconds / 1_000_000)
    } else if nanoseconds.is_multiple_of(1000) {
        write!(out, ".{:06}", nanoseconds / 1000)
    } else {
        write!(out, ".{nanoseconds:09}")
    };
}

/// Writes a day, counted from the epoch. Years past 9999 or before 0 get a sign, as in ISO 8601.
pub fn write_date(out: &mut String, days: i64) {
    let (year, month, day) = civil(days);
    if (0..=9999).contains(&year) {
        let year = u32_or_zero(year);
        write_two(out, year / 100);
        write_two(out, year % 100);
    } else {
        let _ = write!(out, "{year:+05}");
    }
    out.push('-');
    write_two(out, month);
    out.push('-');
    write_two(out, day);
}

fn write_two(out: &mut String, value: u32) {
    for digit in [value / 10 % 10, value % 10] {
        out.push(char::from_digit(digit, 10).unwrap_or('0'));
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
///
/// Years are counted from March, so that the leap day is the last of its year: then the days before each
/// month follow one linear formula.
fn civil(days: i64) -> (i64, u32, u32) {
    const DAYS_PER_ERA: i64 = 146_097; // 400 years
    let days = days.saturating_add(719_468); // from 0000-03-01
    let era = days.div_euclid(DAYS_PER_ERA);
    let day_of_era = days.rem_euclid(DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, u32_or_zero(month), u32_or_zero(day))
}
