//! Numbered objects of a folder: what is so is put under a number, once, and the highest number counts.
//!
//! Deliberately not here: what is in them, and where the numbers come from.

use crate::{
    StorageError,
    records::Record,
    service::refusal::{Answer, Refusal},
    storage::{Objects, SMALL},
};

/// The newest record of a folder that can be read, and the highest number that was used.
pub(super) fn newest<T: Record>(
    objects: &dyn Objects,
    folder: &str,
) -> Result<(Option<T>, u64), StorageError> {
    let numbers = numbers(objects, folder)?;
    for number in numbers.iter().rev() {
        let bytes = match objects.read(&numbered(folder, *number), SMALL) {
            // Put away meanwhile, since there is a newer one.
            Err(err) if err.is_not_found() => continue,
            bytes => bytes?,
        };
        match T::parse(&bytes) {
            Ok(record) => return Ok((Some(record), numbers.last().copied().unwrap_or(0))),
            Err(err) => tracing::error!("{folder}/{number} is damaged, the one before it is taken: {err}"),
        }
    }
    Ok((None, numbers.last().copied().unwrap_or(0)))
}

/// The key of a number.
pub(super) fn numbered(folder: &str, number: u64) -> String {
    format!("{folder}/{number:020}")
}

/// The numbers that there are, in order.
pub(super) fn numbers(objects: &dyn Objects, folder: &str) -> Result<Vec<u64>, StorageError> {
    let mut numbers = Vec::new();
    objects.list(folder, &mut |listed| {
        let number = listed.key.rsplit('/').next().and_then(|name| name.parse().ok());
        numbers.extend(number.filter(|number| numbered(folder, *number) == listed.key));
    })?;
    numbers.sort_unstable();
    Ok(numbers)
}

/// Puts a record under its number, and removes all but the one before it.
pub(super) fn put(objects: &dyn Objects, folder: &str, number: u64, record: &impl Record) -> Answer<()> {
    let sealed = record.seal().map_err(|err| Refusal::failing(&err))?;
    match objects.put_new(&numbered(folder, number), &sealed) {
        // By another instance, which has seen the same change.
        Err(err) if err.is_already_there() => {}
        put => put?,
    }
    let older = numbers(objects, folder)?.into_iter().filter(|older| *older < number);
    let older: Vec<String> = older.map(|older| numbered(folder, older)).collect();
    Ok(objects.remove(&older[..older.len().saturating_sub(1)])?)
}

/// Removes all that there is up to a number: what is newer stays. One after the other, the newest last, so that nothing older is ever
/// taken for the newest.
pub(super) fn remove(objects: &dyn Objects, folder: &str, number: u64) -> Result<(), StorageError> {
    let old = numbers(objects, folder)?.into_iter().filter(|old| *old <= number);
    old.map(|old| numbered(folder, old)).try_for_each(|key| objects.remove(&[key]))
}
