//! `cache [TTL] [ZONES...]`: answers of upstreams are cached. The cache itself is `resolve::cache`.

use std::time::Duration;

use super::directive::Directive;
use crate::{
    config::{Cache, Prefetch, ServeStale, Stored, Verify, Zones},
    corefile::{CorefileError, Statement, Word, zones_or},
};

impl Directive for Cache {
    const NAME: &'static str = "cache";
    const SUMMARY: &'static str = "cache of the answers of upstreams";
    const OPTIONS: &'static [&'static str] = &[
        "success",
        "denial",
        "prefetch",
        "serve_stale",
        "serve_stale_policy",
        "servfail",
        "disable",
        "keepttl",
    ];
    type Setting = Option<Self>;

    fn read(setting: &mut Option<Self>, statement: &Statement, zones: &Zones) -> Result<(), CorefileError> {
        *setting = Some(parse(statement, zones)?);
        Ok(())
    }

    fn is_enabled(setting: &Option<Self>) -> bool {
        setting.is_some()
    }
}

const MAX_FAILURE_TTL: Duration = Duration::from_secs(300);
/// RFC 8767, section 5.
const MAX_RECHECK: Duration = Duration::from_secs(300);

fn parse(statement: &Statement, zones: &Zones) -> Result<Cache, CorefileError> {
    let (ttl, named) = match statement.words.split_first() {
        Some((first, rest)) if first.text.parse::<u32>().is_ok() => (Some(first), rest),
        _ => (None, statement.words.as_slice()),
    };
    let mut cache = match ttl {
        Some(ttl) => Cache::capped_at(positive(ttl)?),
        None => Cache::default(),
    };
    cache.zones = zones_or(named, zones.clone())?;
    for option in &statement.body {
        option.no_body()?;
        read_option(&mut cache, statement, option)?;
    }
    if cache.prefer_positive && cache.serve_stale.is_none() {
        return Err(statement.refuse("`serve_stale_policy` needs `serve_stale`; add it"));
    }
    Ok(cache)
}

fn read_option(cache: &mut Cache, statement: &Statement, option: &Statement) -> Result<(), CorefileError> {
    match option.name.text.as_str() {
        "success" => stored(&mut cache.success, option)?,
        "denial" => stored(&mut cache.denial, option)?,
        // As in CoreDNS, an amount of 0 disables it.
        "prefetch" => cache.prefetch = Some(prefetch(option)?).filter(|prefetch| prefetch.amount > 0),
        "serve_stale" => cache.serve_stale = Some(serve_stale(option)?),
        "serve_stale_policy" => {
            let [policy] = option.exactly("serve_stale_policy prefer_positive")?;
            if !policy.text.eq_ignore_ascii_case("prefer_positive") {
                return Err(policy.refuse("the only policy is `prefer_positive`"));
            }
            cache.prefer_positive = true;
        }
        "servfail" => cache.servfail = servfail(option)?,
        "disable" => disable(cache, option)?,
        "keepttl" => {
            option.no_words()?;
            cache.keep_ttl = true;
        }
        _ => return Err(statement.unknown_option(option)),
    }
    Ok(())
}

fn positive(word: &Word) -> Result<Duration, CorefileError> {
    let ttl = word.seconds()?;
    if ttl.is_zero() {
        return Err(word.refuse("a TTL of 0 keeps nothing; remove the line to go without a cache"));
    }
    Ok(ttl)
}

fn stored(stored: &mut Stored, option: &Statement) -> Result<(), CorefileError> {
    let (capacity, rest) = option.words.split_first().ok_or_else(|| stored_misused(option))?;
    stored.capacity = capacity.number()?;
    match rest {
        [] => {}
        [max] => stored.max_ttl = positive(max)?,
        [max, min] => (stored.max_ttl, stored.min_ttl) = (positive(max)?, min.seconds()?),
        [_, _, ..] => return Err(stored_misused(option)),
    }
    Ok(())
}

fn stored_misused(option: &Statement) -> CorefileError {
    option.misused(&format!("{} CAPACITY [TTL] [MINTTL]", option.name.text))
}

fn prefetch(option: &Statement) -> Result<Prefetch, CorefileError> {
    let usage = "prefetch AMOUNT [DURATION] [PERCENTAGE%]";
    let mut prefetch = Prefetch { amount: 0, duration: Duration::from_secs(60), percentage: 10 };
    let (amount, rest) = option.words.split_first().ok_or_else(|| option.misused(usage))?;
    prefetch.amount = amount.number()?;
    let (duration, percentage) = match rest {
        [] => (None, None),
        [duration] => (Some(duration), None),
        [duration, percentage] => (Some(duration), Some(percentage)),
        [_, _, ..] => return Err(option.misused(usage)),
    };
    if let Some(duration) = duration {
        prefetch.duration = duration.duration()?;
    }
    if let Some(word) = percentage {
        let number = word.text.strip_suffix('%').and_then(|number| number.parse().ok());
        let valid = number.filter(|number| (10..=90).contains(number));
        prefetch.percentage = valid.ok_or_else(|| word.refuse("write a percentage from 10% to 90%"))?;
    }
    Ok(prefetch)
}

const SERVE_STALE: &str =
    "serve_stale [DURATION] [immediate [TTL [RECHECK]] | verify [TIMEOUT [TTL [RECHECK]]]]";

fn serve_stale(option: &Statement) -> Result<ServeStale, CorefileError> {
    let mut words = option.words.iter().peekable();
    let is = |word: &Word, mode: &str| word.text.eq_ignore_ascii_case(mode);
    let duration = words.next_if(|word| !is(word, "immediate") && !is(word, "verify"));
    let verify = match words.next() {
        None => Verify::Immediate,
        Some(word) if is(word, "immediate") => Verify::Immediate,
        Some(word) if is(word, "verify") => {
            let timeout = words.next().map(Word::duration).transpose()?;
            // As in CoreDNS, 0 is the upstream's own timeout.
            Verify::First(timeout.filter(|timeout| !timeout.is_zero()))
        }
        Some(word) => return Err(word.refuse("a stale answer is served `immediate` or after `verify`")),
    };
    let stale = ServeStale {
        duration: duration.map_or(Ok(Duration::from_secs(3600)), Word::duration)?,
        verify,
        ttl: words.next().map_or(Ok(0), stale_ttl)?,
        recheck: words.next().map_or(Ok(Duration::ZERO), recheck)?,
    };
    match words.next() {
        None => Ok(stale),
        Some(_) => Err(option.misused(SERVE_STALE)),
    }
}

fn stale_ttl(word: &Word) -> Result<u32, CorefileError> {
    let ttl = word.duration()?;
    let seconds = u32::try_from(ttl.as_secs()).ok().filter(|_| ttl.subsec_nanos() == 0);
    seconds.ok_or_else(|| word.refuse("a TTL is a number of whole seconds, such as `30s`"))
}

fn recheck(word: &Word) -> Result<Duration, CorefileError> {
    let time = word.duration()?;
    if time > MAX_RECHECK {
        return Err(word.refuse("a failed refresh is tried again after 5m at the most"));
    }
    Ok(time)
}

fn servfail(option: &Statement) -> Result<Duration, CorefileError> {
    let [word] = option.exactly("servfail DURATION")?;
    let duration = word.duration()?;
    if duration > MAX_FAILURE_TTL {
        return Err(word.refuse("failures are kept for 5m at the most"));
    }
    Ok(duration)
}

fn disable(cache: &mut Cache, option: &Statement) -> Result<(), CorefileError> {
    let usage = "disable success|denial [ZONES...]";
    let (which, zones) = option.words.split_first().ok_or_else(|| option.misused(usage))?;
    let except = zones_or(zones, Zones::all())?;
    match which.text.as_str() {
        "success" => cache.success.except = except,
        "denial" => cache.denial.except = except,
        _ => return Err(option.misused(usage)),
    }
    Ok(())
}
