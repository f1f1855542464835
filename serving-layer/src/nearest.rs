//! "Did you mean …?" for names that are not there.

/// What to add to "there is no such thing": the name that was probably meant, or the names there are, when they are few.
pub fn hint<'n>(wanted: &str, names: impl Iterator<Item = &'n str>) -> String {
    const FEW: usize = 8;
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    // Nobody misspells more than a third of a name; and a client's name may be long.
    let most = wanted.chars().count().min(100) / 3;
    let close = names.iter().map(|name| (distance(wanted, name, most), *name)).filter(|(far, _)| *far <= most);
    match close.min() {
        Some((_, name)) => format!("; did you mean `{name}`?"),
        None if names.is_empty() => "; there are none".to_owned(),
        None if names.len() <= FEW => format!("; there are {}", names.join(", ")),
        None => String::new(),
    }
}

/// How many letters must be put in, left out or changed to make one name of the other, upper and lower case being the same;
/// something greater than `most` when it is more than that.
fn distance(one: &str, other: &str, most: usize) -> usize {
    let letters = |name: &str| name.chars().take(100).flat_map(char::to_lowercase).collect::<Vec<char>>();
    let (one, other) = (letters(one), letters(other));
    if one.len().abs_diff(other.len()) > most {
        return most + 1;
    }
    let mut above: Vec<usize> = (0..=other.len()).collect();
    for (row, letter) in one.iter().enumerate() {
        let mut diagonal = row;
        above[0] = row + 1;
        for column in 0..other.len() {
            let changed = diagonal + usize::from(*letter != other[column]);
            diagonal = above[column + 1];
            above[column + 1] = changed.min(diagonal + 1).min(above[column] + 1);
        }
    }
    above[other.len()]
}
