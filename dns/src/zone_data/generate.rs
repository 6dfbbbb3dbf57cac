//! `$GENERATE RANGE OWNER [TTL] [CLASS] TYPE DATA`: a record for each number of a range (as BIND).

use super::lexer::Word;

/// Limit of the records of one line.
const MAX_RECORDS: u32 = 65_536;
/// Limit of the digits of a number.
const MAX_WIDTH: usize = 63;

/// The numbers of a range, `START-STOP` or `START-STOP/STEP`.
pub(super) fn range(text: &str) -> Result<impl Iterator<Item = u32> + use<>, &'static str> {
    const WRONG: &str = "a range is written START-STOP or START-STOP/STEP";
    let (bounds, step) = text.split_once('/').unwrap_or((text, "1"));
    let (start, stop) = bounds.split_once('-').ok_or(WRONG)?;
    let number = |text: &str| text.parse::<u32>().ok().filter(|number| i32::try_from(*number).is_ok());
    let (start, stop) = number(start).zip(number(stop)).ok_or(WRONG)?;
    let step = number(step).filter(|step| *step > 0).ok_or(WRONG)?;
    if start > stop {
        return Err("the range ends before it starts");
    }
    if (stop - start) / step >= MAX_RECORDS {
        return Err("the range has more than 65536 numbers");
    }
    Ok((start..=stop).step_by(usize::try_from(step).unwrap_or(usize::MAX)))
}

/// The words for a number: `$` becomes it, `${OFFSET,WIDTH,BASE}` it in another form, `$$` and `\$` a dollar sign.
pub(super) fn filled(words: &[Word], number: u32) -> Result<Vec<Word>, &'static str> {
    let fill = |word: &Word| Ok(Word { text: text(&word.text, number)?, ..word.clone() });
    words.iter().map(fill).collect()
}

fn text(template: &str, number: u32) -> Result<String, &'static str> {
    let (mut out, mut rest) = (String::new(), template);
    while let Some(at) = rest.find(['$', '\\']) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if let Some(after) = from.strip_prefix('\\') {
            // An escape stays one.
            let end = after.chars().next().map_or(0, char::len_utf8);
            out.extend(['\\'].into_iter().chain(after[..end].chars()));
            rest = &after[end..];
        } else if let Some(after) = from.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some(after) = from.strip_prefix("${") {
            let (form, after) = after.split_once('}').ok_or("a ${ is never closed")?;
            out += &formatted(form, number)?;
            rest = after;
        } else {
            out += &number.to_string();
            rest = &from[1..];
        }
    }
    Ok(out + rest)
}

/// A number as `OFFSET`, `OFFSET,WIDTH` or `OFFSET,WIDTH,BASE` say, with zeros in front.
fn formatted(form: &str, number: u32) -> Result<String, &'static str> {
    const WRONG: &str = "a number is written ${OFFSET,WIDTH,BASE}, with the base d, o, x or X";
    let mut parts = form.split(',');
    let offset: i32 = parts.next().unwrap_or_default().parse().map_err(|_| WRONG)?;
    let width: usize = parts.next().unwrap_or("0").parse().map_err(|_| WRONG)?;
    let base = parts.next().unwrap_or("d");
    if parts.next().is_some() || width > MAX_WIDTH {
        return Err(WRONG);
    }
    let value = number.checked_add_signed(offset).ok_or("a number with its offset is negative")?;
    match base {
        "d" => Ok(format!("{value:0width$}")),
        "o" => Ok(format!("{value:0width$o}")),
        "x" => Ok(format!("{value:0width$x}")),
        "X" => Ok(format!("{value:0width$X}")),
        _ => Err(WRONG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        for (text, want) in [
            ("1-3", Ok(vec![1, 2, 3])),
            ("0-10/5", Ok(vec![0, 5, 10])),
            ("7-7", Ok(vec![7])),
            ("3-1", Err("the range ends before it starts")),
            ("1-70000", Err("the range has more than 65536 numbers")),
        ] {
            assert_eq!(range(text).map(Iterator::collect::<Vec<u32>>), want, "{text}");
        }
        for text in ["", "1", "1-", "-3", "a-b", "1-3/0", "1-3/x", "1-4294967295"] {
            assert!(range(text).is_err(), "{text}");
        }
        assert_eq!(range("0-65535").unwrap().count(), 65_536);
    }

    #[test]
    fn numbers_take_the_place_of_dollar_signs() {
        for (template, want) in [
            ("host", Ok("host")),
            ("host-$", Ok("host-26")),
            ("$.$.x", Ok("26.26.x")),
            ("${0}", Ok("26")),
            ("a${-6,4}b", Ok("a0020b")),
            ("${0,4,x}-${0,0,X}-${6,3,o}", Ok("001a-1A-040")),
            ("$$1 \\$2 \\\\$", Ok("$1 \\$2 \\\\26")),
            ("${-27}", Err("negative")),
            ("${0", Err("never closed")),
            ("${}", Err("is written")),
            ("${0,64}", Err("is written")),
            ("${0,1,b}", Err("is written")),
            ("${0,1,d,1}", Err("is written")),
        ] {
            match (text(template, 26), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{template}"),
                (Err(got), Err(want)) => assert!(got.contains(want), "{template}: {got}"),
                (got, _) => panic!("{template}: {got:?}"),
            }
        }
    }
}
