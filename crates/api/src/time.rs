//! Times on the wire: ISO 8601 in UTC with milliseconds, `2024-05-01T09:30:00.000Z`.
//!
//! Hand-written because a DescribeInstances of ten thousand writes tens of
//! thousands of them, and because what AWS accepts is narrower than what a
//! general parser does. The civil calendar is Howard Hinnant's
//! `days_from_civil` and its inverse.

/// Milliseconds in a day.
const DAY_MS: i64 = 86_400_000;

/// Formats milliseconds since the epoch as `YYYY-MM-DDTHH:MM:SS.mmmZ`.
///
/// Years outside 0 to 9999 are clamped: the format has four digits.
pub fn format_ms(epoch_ms: i64) -> String {
    let mut text = Vec::with_capacity(24);
    push_ms(&mut text, epoch_ms);
    String::from_utf8(text).expect("digits and punctuation")
}

/// Appends what [`format_ms`] returns.
pub fn push_ms(out: &mut Vec<u8>, epoch_ms: i64) {
    let (days, ms) = (epoch_ms.div_euclid(DAY_MS), epoch_ms.rem_euclid(DAY_MS));
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    digits(&mut text[0..4], year.clamp(0, 9999));
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day);
    digits(&mut text[11..13], ms / 3_600_000);
    digits(&mut text[14..16], ms / 60_000 % 60);
    digits(&mut text[17..19], ms / 1000 % 60);
    digits(&mut text[20..23], ms % 1000);
    out.extend_from_slice(&text);
}

/// Formats milliseconds since the epoch as SigV4's `YYYYMMDDTHHMMSSZ`.
pub fn format_basic(epoch_ms: i64) -> String {
    let text = format_ms(epoch_ms);
    format!(
        "{}{}{}T{}{}{}Z",
        &text[0..4],
        &text[5..7],
        &text[8..10],
        &text[11..13],
        &text[14..16],
        &text[17..19]
    )
}

/// Parses SigV4's `YYYYMMDDTHHMMSSZ`.
pub fn parse_basic(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() != 16 || bytes[8] != b'T' || bytes[15] != b'Z' {
        return None;
    }
    let number = |from: usize, to: usize| number(&bytes[from..to]);
    epoch_ms(
        number(0, 4)?,
        number(4, 6)?,
        number(6, 8)?,
        number(9, 11)?,
        number(11, 13)?,
        number(13, 15)?,
    )
}

/// Parses ISO 8601: a date, or a date and a time with `Z`, an offset or neither
/// (then it is UTC), and any number of decimals, of which three count.
pub fn parse_iso8601(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let part = |from: usize, to: usize| number(bytes.get(from..to)?);
    let is = |at: usize, byte: u8| bytes.get(at) == Some(&byte);
    if !is(4, b'-') || !is(7, b'-') {
        return None;
    }
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    if bytes.len() == 10 {
        return epoch_ms(year, month, day, 0, 0, 0);
    }
    if !(is(10, b'T') || is(10, b' ')) || !is(13, b':') || !is(16, b':') {
        return None;
    }
    let whole = epoch_ms(
        year,
        month,
        day,
        part(11, 13)?,
        part(14, 16)?,
        part(17, 19)?,
    )?;
    let (fraction_ms, zone) = fraction(bytes.get(19..)?)?;
    Some(whole + fraction_ms - offset_ms(zone)?)
}

/// The milliseconds of a fraction, and what follows it.
fn fraction(rest: &[u8]) -> Option<(i64, &[u8])> {
    let Some(decimals) = rest.strip_prefix(b".") else {
        return Some((0, rest));
    };
    let length = decimals
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    if length == 0 {
        return None;
    }
    let ms = (0..3).fold(0, |ms, place| {
        let digit = decimals[..length]
            .get(place)
            .map_or(0, |digit| digit - b'0');
        ms * 10 + i64::from(digit)
    });
    Some((ms, &decimals[length..]))
}

/// How far a zone (`Z`, `+02:00`, `+0200`, nothing) is ahead of UTC.
fn offset_ms(zone: &[u8]) -> Option<i64> {
    let (sign, hours, minutes) = match zone {
        b"" | b"Z" | b"z" => return Some(0),
        [sign, h1, h2, b':', m1, m2] | [sign, h1, h2, m1, m2] => (sign, [*h1, *h2], [*m1, *m2]),
        _ => return None,
    };
    let (hours, minutes) = (number(&hours)?, number(&minutes)?);
    let ahead = (hours * 60 + minutes) * 60_000;
    match sign {
        b'+' if hours < 24 && minutes < 60 => Some(ahead),
        b'-' if hours < 24 && minutes < 60 => Some(-ahead),
        _ => None,
    }
}

fn epoch_ms(year: i64, month: i64, day: i64, hour: i64, minute: i64, second: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        1..=12 => 31,
        _ => return None,
    };
    // A leap second is written as :60; it counts as the next second.
    if !(1..=length).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some(((days_from_civil(year, month, day) * 24 + hour) * 60 + minute) * 60_000 + second * 1000)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

fn number(digits: &[u8]) -> Option<i64> {
    let mut number = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        number = number * 10 + i64::from(digit - b'0');
    }
    Some(number)
}

fn digits(out: &mut [u8], mut number: i64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_are_written_and_read() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (1_440_938_160_000, "2015-08-30T12:36:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(format_ms(ms), text);
            assert_eq!(parse_iso8601(text), Some(ms));
        }
        assert_eq!(format_basic(1_440_938_160_000), "20150830T123600Z");
        assert_eq!(parse_basic("20150830T123600Z"), Some(1_440_938_160_000));
    }

    #[test]
    fn offsets_fractions_and_dates_are_read() {
        let noon = parse_iso8601("2015-08-30T12:00:00Z");
        assert_eq!(parse_iso8601("2015-08-30T14:00:00+02:00"), noon);
        assert_eq!(parse_iso8601("2015-08-30T11:30:00-0030"), noon);
        assert_eq!(parse_iso8601("2015-08-30T12:00:00"), noon);
        assert_eq!(
            parse_iso8601("2015-08-30T12:00:00.1239999Z"),
            noon.map(|ms| ms + 123)
        );
        assert_eq!(
            parse_iso8601("2015-08-30T12:00:00.5Z"),
            noon.map(|ms| ms + 500)
        );
        assert_eq!(
            parse_iso8601("2015-08-30"),
            noon.map(|ms| ms - 12 * 3_600_000)
        );
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2015",
            "2015-02-29",
            "2015-13-01",
            "2015-08-30T25:00:00Z",
            "2015-08-30T12:00:00.Z",
            "2015-08-30T12:00:00X",
            "2015-08-30T12:00:00+24:00",
            "2015-08-30X12:00:00Z",
            "２015-08-30",
            "2015-08-30T12:00",
            "+015-08-30",
        ] {
            assert_eq!(parse_iso8601(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_time_survives_a_round(ms in -62_135_596_800_000_i64..253_402_300_800_000) {
            proptest::prop_assert_eq!(parse_iso8601(&format_ms(ms)), Some(ms));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            parse_iso8601(&text);
            parse_basic(&text);
        }
    }
}
