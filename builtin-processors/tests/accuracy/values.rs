//! Values of each kind, drawn and completed with their check digits, and near misses.

#![expect(
    clippy::cast_possible_truncation,
    reason = "sums of few digits, and places in short tables"
)]

use std::ops::Range;

use fastrand::Rng;

use super::corpus::BASE64;

/// What there is to know of one detector's values.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// What such values are called; a blank divides words.
    pub(crate) keys: &'static [&'static str],
    pub(crate) draw: fn(&mut Rng) -> String,
    /// The same with a wrong check digit, or another fault.
    pub(crate) spoil: Option<fn(&mut Rng) -> String>,
    /// Where it stands, if only certain places will do.
    pub(crate) frame: Option<Frame>,
}

/// Puts a value into an event, and says where it stands there.
type Frame = fn(&str, &mut Rng) -> (String, Range<usize>);

pub(crate) fn digits(rng: &mut Rng, count: usize) -> String {
    letters(rng, b"0123456789", count)
}

pub(crate) fn letters(rng: &mut Rng, of: &[u8], count: usize) -> String {
    (0..count)
        .map(|_| char::from(of[rng.usize(..of.len())]))
        .collect()
}

pub(crate) fn uuid(rng: &mut Rng) -> String {
    let mut part = |count| letters(rng, b"0123456789abcdef", count);
    [part(8), part(4), part(4), part(4), part(12)].join("-")
}

const UPPER: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const ALNUM: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const HEX: &[u8] = b"0123456789abcdef";
const URL64: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The digits of a text, as numbers.
fn numbers(text: &str) -> Vec<i64> {
    text.chars()
        .filter_map(|digit| digit.to_digit(10))
        .map(i64::from)
        .collect()
}

fn sum_of(text: &str, weights: &[i64]) -> i64 {
    numbers(text)
        .iter()
        .zip(weights)
        .map(|(digit, weight)| digit * weight)
        .sum()
}

/// Puts separators behind places: `("-", [3, 5])` makes 123-45-6789 of 123456789.
fn group(text: &str, separator: &str, places: &[usize]) -> String {
    let mut out = String::new();
    for (at, letter) in text.chars().enumerate() {
        if places.contains(&at) {
            out.push_str(separator);
        }
        out.push(letter);
    }
    out
}

/// Any of these, as likely as the others.
fn one<'a>(rng: &mut Rng, of: &[&'a str]) -> &'a str {
    of[rng.usize(..of.len())]
}

/// Draws until something is accepted.
fn until<T>(rng: &mut Rng, mut draw: impl FnMut(&mut Rng) -> Option<T>) -> T {
    loop {
        if let Some(drawn) = draw(rng) {
            return drawn;
        }
    }
}

/// A text with its last digit moved on by one to nine.
fn spoiled(text: &str, rng: &mut Rng) -> String {
    let at = text
        .rfind(|letter: char| letter.is_ascii_digit())
        .expect("a digit");
    let digit = u32::from(text.as_bytes()[at] - b'0');
    let other = (digit + rng.u32(1..10)) % 10;
    format!("{}{other}{}", &text[..at], &text[at + 1..])
}

/// Luhn's digit, from the doubled digits' table.
fn luhn(payload: &str) -> String {
    let doubled = [0, 2, 4, 6, 8, 1, 3, 5, 7, 9];
    let sum: i64 = numbers(payload)
        .iter()
        .rev()
        .enumerate()
        .map(|(at, &digit)| {
            if at % 2 == 0 {
                doubled[digit as usize]
            } else {
                digit
            }
        })
        .sum();
    format!("{payload}{}", (1000 - sum) % 10)
}

fn birth(rng: &mut Rng) -> (u32, u32, u32) {
    (rng.u32(1930..2005), rng.u32(1..13), rng.u32(1..29))
}

fn ddmmyy(rng: &mut Rng) -> String {
    let (year, month, day) = birth(rng);
    format!("{day:02}{month:02}{:02}", year % 100)
}

fn yymmdd(rng: &mut Rng) -> String {
    let (year, month, day) = birth(rng);
    format!("{:02}{month:02}{day:02}", year % 100)
}

fn credit_card(rng: &mut Rng) -> String {
    let (prefix, length) = [
        ("4", 16),
        ("51", 16),
        ("5425", 16),
        ("2221", 16),
        ("34", 15),
        ("37", 15),
        ("6011", 16),
        ("65", 16),
        ("3528", 16),
        ("36", 14),
        ("622126", 16),
    ][rng.usize(..11)];
    let payload = format!("{prefix}{}", digits(rng, length - 1 - prefix.len()));
    let card = luhn(&payload);
    match (rng.u8(..3), length) {
        (0, 16) => group(&card, " ", &[4, 8, 12]),
        (1, 16) => group(&card, "-", &[4, 8, 12]),
        (0, 15) => group(&card, " ", &[4, 10]),
        _ => card,
    }
}

fn iban(rng: &mut Rng) -> String {
    let (country, bban) = match rng.u8(..6) {
        0 => ("DE", digits(rng, 18)),
        1 => (
            "GB",
            format!("{}{}", letters(rng, UPPER, 4), digits(rng, 14)),
        ),
        2 => (
            "FR",
            format!(
                "{}{}{}",
                digits(rng, 10),
                letters(rng, b"ABC0123456789", 11),
                digits(rng, 2)
            ),
        ),
        3 => (
            "NL",
            format!("{}{}", letters(rng, UPPER, 4), digits(rng, 10)),
        ),
        4 => ("ES", digits(rng, 20)),
        _ => ("NO", digits(rng, 11)),
    };
    // ISO 13616: with `00` as check digits the number is moved and divided; 98 less the remainder.
    let expanded: String = format!("{bban}{country}00")
        .chars()
        .map(|letter| letter.to_digit(36).expect("a letter or digit").to_string())
        .collect();
    let remainder = expanded
        .bytes()
        .fold(0, |rest, digit| (rest * 10 + u64::from(digit - b'0')) % 97);
    let iban = format!("{country}{:02}{bban}", 98 - remainder);
    if rng.bool() {
        let places: Vec<usize> = (4..iban.len()).step_by(4).collect();
        return group(&iban, " ", &places);
    }
    iban
}

fn aba(rng: &mut Rng) -> String {
    let payload = format!("{:02}{}", rng.u8(1..13), digits(rng, 6));
    let sum = sum_of(&payload, &[3, 7, 1, 3, 7, 1, 3, 7]);
    format!("{payload}{}", (1000 - sum) % 10)
}

fn bic(rng: &mut Rng) -> String {
    let country = one(rng, &["DE", "FR", "GB", "US", "NL", "CH", "JP"]);
    let branch = if rng.bool() {
        letters(rng, b"ABCX0123456789", 3)
    } else {
        String::new()
    };
    format!(
        "{}{country}{}{branch}",
        letters(rng, UPPER, 4),
        letters(rng, b"ABCDEFGH23456789", 2)
    )
}

/// Addresses that are published: hashing is not done twice here.
fn bitcoin(rng: &mut Rng) -> String {
    one(
        rng,
        &[
            "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa",
            "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2",
            "3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy",
            "1NEDqZPvTWRaoho48qXuLLsrYomMXPABfD",
            "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
            "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
            "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0",
        ],
    )
    .to_owned()
}

fn spoiled_bitcoin(rng: &mut Rng) -> String {
    let address = bitcoin(rng);
    let last = address.chars().last().expect("not empty");
    format!(
        "{}{}",
        &address[..address.len() - 1],
        if last == 'q' { 'p' } else { 'q' }
    )
}

fn ethereum(rng: &mut Rng) -> String {
    match rng.u8(..3) {
        0 => one(
            rng,
            &[
                "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
                "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
                "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
                "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
            ],
        )
        .to_owned(),
        _ => format!("0x{}", letters(rng, HEX, 40)),
    }
}

fn ssn(rng: &mut Rng) -> String {
    let area = until(rng, |rng| Some(rng.u32(1..900)).filter(|&area| area != 666));
    let ssn = format!("{area:03}{:02}{:04}", rng.u32(1..100), rng.u32(1..10_000));
    if rng.bool() {
        group(&ssn, "-", &[3, 5])
    } else {
        ssn
    }
}

/// Next to a keyword only the shape counts.
fn spoiled_ssn(rng: &mut Rng) -> String {
    let digits = format!("{:09}", rng.u32(100_000_000..899_999_999));
    group(&digits, "-", &[3, 6])
}

fn itin(rng: &mut Rng) -> String {
    let middle = [50, 65, 70, 88, 90, 92, 94, 99][rng.usize(..8)];
    let itin = format!("9{}{middle}{}", digits(rng, 2), digits(rng, 4));
    if rng.bool() {
        group(&itin, "-", &[3, 5])
    } else {
        itin
    }
}

fn ein(rng: &mut Rng) -> String {
    let prefix = one(
        rng,
        &["01", "10", "20", "35", "47", "61", "72", "84", "91", "99"],
    );
    let ein = format!("{prefix}{}", digits(rng, 7));
    if rng.bool() {
        group(&ein, "-", &[2])
    } else {
        ein
    }
}

fn passport(rng: &mut Rng) -> String {
    format!("{}{}", letters(rng, UPPER, 1), digits(rng, 8))
}

fn sin(rng: &mut Rng) -> String {
    let first = one(rng, &["1", "2", "3", "4", "5", "6", "7", "9"]);
    let sin = luhn(&format!("{first}{}", digits(rng, 7)));
    match rng.u8(..3) {
        0 => group(&sin, " ", &[3, 6]),
        1 => group(&sin, "-", &[3, 6]),
        _ => sin,
    }
}

fn modulo_11(payload: &str, top: i64) -> i64 {
    let count = numbers(payload).len() as i64;
    let weights: Vec<i64> = (0..count)
        .map(|at| 2 + (count - 1 - at) % (top - 1))
        .collect();
    let rest = sum_of(payload, &weights) % 11;
    if rest < 2 { 0 } else { 11 - rest }
}

fn cpf(rng: &mut Rng) -> String {
    let payload = digits(rng, 9);
    let first = format!("{payload}{}", modulo_11(&payload, 100));
    let cpf = format!("{first}{}", modulo_11(&first, 100));
    if rng.bool() {
        format!("{}-{}", group(&cpf[..9], ".", &[3, 6]), &cpf[9..])
    } else {
        cpf
    }
}

fn cnpj(rng: &mut Rng) -> String {
    let payload = format!("{}0001", digits(rng, 8));
    let first = format!("{payload}{}", modulo_11(&payload, 9));
    let cnpj = format!("{first}{}", modulo_11(&first, 9));
    if rng.bool() {
        return format!(
            "{}/{}-{}",
            group(&cnpj[..8], ".", &[2, 5]),
            &cnpj[8..12],
            &cnpj[12..]
        );
    }
    cnpj
}

fn curp(rng: &mut Rng) -> String {
    let (year, month, day) = birth(rng);
    let consonants = b"BCDFGHJKLMNPQRSTVWXYZ";
    let payload = format!(
        "{}{}{}{:02}{month:02}{day:02}{}{}{}0",
        letters(rng, consonants, 1),
        one(rng, &["A", "E", "I", "O", "U"]),
        letters(rng, consonants, 2),
        year % 100,
        one(rng, &["H", "M"]),
        one(rng, &["DF", "JC", "NL", "MC", "NE", "YN"]),
        letters(rng, consonants, 3),
    );
    let order = "0123456789ABCDEFGHIJKLMN\u{d1}OPQRSTUVWXYZ";
    let sum: usize = payload
        .chars()
        .enumerate()
        .map(|(at, letter)| {
            order
                .chars()
                .position(|known| known == letter)
                .expect("known")
                * (18 - at)
        })
        .sum();
    format!("{payload}{}", (10 - sum % 10) % 10)
}

fn nino(rng: &mut Rng) -> String {
    let prefix = one(rng, &["AB", "CE", "HJ", "JG", "LM", "PR", "SA", "WK", "YZ"]);
    let nino = format!("{prefix}{}{}", digits(rng, 6), letters(rng, b"ABCD", 1));
    if rng.bool() {
        group(&nino, " ", &[2, 4, 6, 8])
    } else {
        nino
    }
}

fn utr(rng: &mut Rng) -> String {
    let payload = digits(rng, 9);
    let rest = sum_of(&payload, &[6, 7, 8, 9, 10, 5, 4, 3, 2]) % 11;
    format!("{}{payload}", numbers("21987654321")[rest as usize])
}

fn spanish_letter(number: u64) -> char {
    char::from(b"TRWAGMYFPDXBNJZSQVHLCKE"[(number % 23) as usize])
}

fn dni(rng: &mut Rng) -> String {
    let number = rng.u64(1_000_000..99_999_999);
    let hyphen = if rng.bool() { "-" } else { "" };
    format!("{number:08}{hyphen}{}", spanish_letter(number))
}

fn spoiled_dni(rng: &mut Rng) -> String {
    let number = rng.u64(1_000_000..99_999_999);
    format!("{number:08}{}", spanish_letter(number + 1 + rng.u64(..21)))
}

fn nie(rng: &mut Rng) -> String {
    let prefix = rng.u64(..3);
    let number = rng.u64(1_000_000..9_999_999);
    let letter = spanish_letter(prefix * 10_000_000 + number);
    format!("{}{number:07}{letter}", ["X", "Y", "Z"][prefix as usize])
}

fn nir(rng: &mut Rng) -> String {
    let payload = format!(
        "{}{:02}{:02}{:02}{}{}",
        one(rng, &["1", "2"]),
        rng.u8(30..99),
        rng.u8(1..13),
        rng.u8(1..96),
        digits(rng, 3),
        digits(rng, 3)
    );
    let number: u64 = payload.parse().expect("digits");
    let nir = format!("{payload}{:02}", 97 - number % 97);
    if rng.bool() {
        group(&nir, " ", &[1, 3, 5, 7, 10, 13])
    } else {
        nir
    }
}

fn steuer_id(rng: &mut Rng) -> String {
    until(rng, |rng| {
        // Nine different digits and one of them twice, not in the first place.
        let mut all: Vec<char> = "0123456789".chars().collect();
        rng.shuffle(&mut all);
        let twice = all[rng.usize(..9)];
        all[9] = twice;
        rng.shuffle(&mut all);
        let payload: String = all.into_iter().collect();
        if payload.starts_with('0') {
            return None;
        }
        let mut product = 10;
        for digit in numbers(&payload) {
            let mut sum = (digit + product) % 10;
            if sum == 0 {
                sum = 10;
            }
            product = sum * 2 % 11;
        }
        let check = 11 - product;
        let check = if check == 10 { 0 } else { check };
        Some(format!("{payload}{check}"))
    })
}

fn codice_fiscale(rng: &mut Rng) -> String {
    let (year, _, day) = birth(rng);
    let day = if rng.bool() { day } else { day + 40 };
    let payload = format!(
        "{}{:02}{}{day:02}{}{}",
        letters(rng, b"BCDFGLMNPRSTVZ", 6),
        year % 100,
        letters(rng, b"ABCDEHLMPRST", 1),
        letters(rng, b"ABCDEFGHIL", 1),
        digits(rng, 3)
    );
    let odd = |letter: char| match letter {
        '0' | 'A' => 1,
        '1' | 'B' => 0,
        '2' | 'C' => 5,
        '3' | 'D' => 7,
        '4' | 'E' => 9,
        '5' | 'F' => 13,
        '6' | 'G' => 15,
        '7' | 'H' => 17,
        '8' | 'I' => 19,
        '9' | 'J' => 21,
        'K' => 2,
        'L' => 4,
        'M' => 18,
        'N' => 20,
        'O' => 11,
        'P' => 3,
        'Q' => 6,
        'R' => 8,
        'S' => 12,
        'T' => 14,
        'U' => 16,
        'V' => 10,
        'W' => 22,
        'X' => 25,
        'Y' => 24,
        _ => 23,
    };
    let even = |letter: char| match letter.to_digit(10) {
        Some(digit) => digit,
        None => u32::from(letter) - u32::from('A'),
    };
    let sum: u32 = payload
        .chars()
        .enumerate()
        .map(|(at, letter)| {
            if at % 2 == 0 {
                odd(letter)
            } else {
                even(letter)
            }
        })
        .sum();
    format!("{payload}{}", char::from(UPPER[(sum % 26) as usize]))
}

fn spoiled_codice_fiscale(rng: &mut Rng) -> String {
    let code = codice_fiscale(rng);
    let last = code.as_bytes()[15] - b'A';
    format!(
        "{}{}",
        &code[..15],
        char::from(b'A' + (last + rng.u8(1..26)) % 26)
    )
}

fn bsn(rng: &mut Rng) -> String {
    until(rng, |rng| {
        let payload = format!("{}{}", rng.u8(1..10), digits(rng, 7));
        let rest = sum_of(&payload, &[9, 8, 7, 6, 5, 4, 3, 2]) % 11;
        (rest < 10).then(|| format!("{payload}{rest}"))
    })
}

fn nrn(rng: &mut Rng) -> String {
    let (year, month, day) = birth(rng);
    let payload = format!("{:02}{month:02}{day:02}{:03}", year % 100, rng.u32(1..998));
    let number: u64 = if year < 2000 {
        payload.parse()
    } else {
        format!("2{payload}").parse()
    }
    .expect("digits");
    let nrn = format!("{payload}{:02}", 97 - number % 97);
    if rng.bool() {
        return format!(
            "{}.{}.{}-{}.{}",
            &nrn[..2],
            &nrn[2..4],
            &nrn[4..6],
            &nrn[6..9],
            &nrn[9..]
        );
    }
    nrn
}

fn pesel(rng: &mut Rng) -> String {
    let (year, month, day) = birth(rng);
    let month = if year < 2000 { month } else { month + 20 };
    let payload = format!("{:02}{month:02}{day:02}{}", year % 100, digits(rng, 4));
    let sum = sum_of(&payload, &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3]);
    format!("{payload}{}", (1000 - sum) % 10)
}

fn personnummer(rng: &mut Rng) -> String {
    let payload = format!("{}{}", yymmdd(rng), digits(rng, 3));
    let number = luhn(&payload);
    if rng.bool() {
        group(&number, "-", &[6])
    } else {
        number
    }
}

fn fodselsnummer(rng: &mut Rng) -> String {
    until(rng, |rng| {
        let payload = format!("{}{}", ddmmyy(rng), digits(rng, 3));
        let first = (11 - sum_of(&payload, &[3, 7, 6, 1, 8, 9, 4, 5, 2]) % 11) % 11;
        let longer = format!("{payload}{first}");
        let second = (11 - sum_of(&longer, &[5, 4, 3, 2, 7, 6, 5, 4, 3, 2]) % 11) % 11;
        (first < 10 && second < 10).then(|| format!("{longer}{second}"))
    })
}

fn hetu(rng: &mut Rng) -> String {
    let (date, serial) = (ddmmyy(rng), rng.u32(2..900));
    let number: u64 = format!("{date}{serial:03}").parse().expect("digits");
    let check = char::from(b"0123456789ABCDEFHJKLMNPRSTUVWXY"[(number % 31) as usize]);
    format!("{date}{}{serial:03}{check}", one(rng, &["-", "A"]))
}

fn spoiled_hetu(rng: &mut Rng) -> String {
    let hetu = hetu(rng);
    let checks = "0123456789ABCDEFHJKLMNPRSTUVWXY";
    let at = checks.find(&hetu[10..]).expect("a check character");
    let other = (at + rng.usize(1..31)) % 31;
    format!("{}{}", &hetu[..10], &checks[other..=other])
}

fn cpr(rng: &mut Rng) -> String {
    let cpr = format!("{}{}", ddmmyy(rng), digits(rng, 4));
    if rng.bool() {
        group(&cpr, "-", &[6])
    } else {
        cpr
    }
}

fn nif(rng: &mut Rng) -> String {
    let payload = format!("{}{}", one(rng, &["1", "2", "3", "5"]), digits(rng, 7));
    format!("{payload}{}", modulo_11(&payload, 100))
}

fn pps(rng: &mut Rng) -> String {
    let payload = digits(rng, 7);
    let second = rng.bool().then(|| rng.u8(..9));
    let extra = second.map_or(0, |letter| i64::from(letter) + 1);
    let sum = sum_of(&payload, &[8, 7, 6, 5, 4, 3, 2]) + 9 * extra;
    let check = char::from(b"WABCDEFGHIJKLMNOPQRSTUV"[(sum % 23) as usize]);
    let second = second.map_or(String::new(), |letter| {
        char::from(b'A' + letter).to_string()
    });
    format!("{payload}{check}{second}")
}

fn ahv(rng: &mut Rng) -> String {
    let payload = format!("756{}", digits(rng, 9));
    let sum: i64 = numbers(&payload)
        .iter()
        .enumerate()
        .map(|(at, digit)| if at % 2 == 0 { *digit } else { digit * 3 })
        .sum();
    let ahv = format!("{payload}{}", (1000 - sum) % 10);
    if rng.bool() {
        group(&ahv, ".", &[3, 7, 11])
    } else {
        ahv
    }
}

fn tfn(rng: &mut Rng) -> String {
    until(rng, |rng| {
        let tfn = format!("{}{}", rng.u8(1..10), digits(rng, 8));
        (sum_of(&tfn, &[1, 4, 3, 7, 5, 8, 6, 9, 10]) % 11 == 0).then_some(tfn)
    })
}

fn abn(rng: &mut Rng) -> String {
    // The check digits are the first two: 89 less the remainder, plus ten.
    let payload = digits(rng, 9);
    let rest = sum_of(&payload, &[3, 5, 7, 9, 11, 13, 15, 17, 19]) % 89;
    let abn = format!("{}{payload}", 10 + (89 - rest) % 89);
    if rng.bool() {
        group(&abn, " ", &[2, 5, 8])
    } else {
        abn
    }
}

/// By the tables as Verhoeff printed them.
fn aadhaar(rng: &mut Rng) -> String {
    const PRODUCTS: [&str; 10] = [
        "0123456789",
        "1234067895",
        "2340178956",
        "3401289567",
        "4012395678",
        "5987604321",
        "6598710432",
        "7659821043",
        "8765932104",
        "9876543210",
    ];
    const PERMUTED: [&str; 8] = [
        "0123456789",
        "1576283094",
        "5803796142",
        "8916043527",
        "9453126870",
        "4286573901",
        "2793806415",
        "7046913258",
    ];
    const INVERSES: &str = "0432156789";
    let at = |table: &str, place: i64| i64::from(table.as_bytes()[place as usize] - b'0');
    until(rng, |rng| {
        let payload = format!("{}{}", rng.u8(2..10), digits(rng, 10));
        let check = numbers(&payload)
            .iter()
            .rev()
            .enumerate()
            .fold(0, |check, (place, &digit)| {
                at(
                    PRODUCTS[check as usize],
                    at(PERMUTED[(place + 1) % 8], digit),
                )
            });
        let aadhaar = format!("{payload}{}", at(INVERSES, check));
        if aadhaar.bytes().eq(aadhaar.bytes().rev()) {
            return None;
        }
        Some(if rng.bool() {
            group(&aadhaar, " ", &[4, 8])
        } else {
            aadhaar
        })
    })
}

fn pan(rng: &mut Rng) -> String {
    format!(
        "{}{}{}{:04}{}",
        letters(rng, UPPER, 3),
        letters(rng, b"ABCFGHJLPT", 1),
        letters(rng, UPPER, 1),
        rng.u32(1..9_999),
        letters(rng, UPPER, 1)
    )
}

fn spoiled_pan(rng: &mut Rng) -> String {
    format!(
        "{}{}{}{:04}{}",
        letters(rng, UPPER, 3),
        letters(rng, b"DEIKMNOQ", 1),
        letters(rng, UPPER, 1),
        rng.u32(1..9_999),
        letters(rng, UPPER, 1)
    )
}

fn nric(rng: &mut Rng) -> String {
    let first = one(rng, &["S", "T", "F", "G"]);
    let payload = digits(rng, 7);
    let plus = if first == "T" || first == "G" { 4 } else { 0 };
    let rest = (sum_of(&payload, &[2, 7, 6, 5, 4, 3, 2]) + plus) % 11;
    let table = if first == "S" || first == "T" {
        "ABCDEFGHIZJ"
    } else {
        "KLMNPQRTUWX"
    };
    let check = char::from(table.as_bytes()[(10 - rest) as usize]);
    format!("{first}{payload}{check}")
}

fn resident_id(rng: &mut Rng) -> String {
    let (year, month, day) = birth(rng);
    let payload = format!(
        "{}{}{year}{month:02}{day:02}{}",
        one(rng, &["11", "31", "44", "51", "36"]),
        "0101",
        digits(rng, 3)
    );
    // ISO 7064, pure system: each digit is added, then doubled, modulo 11.
    let rest = numbers(&payload)
        .iter()
        .fold(0, |rest, digit| (rest + digit) * 2 % 11);
    let check = (12 - rest) % 11;
    format!(
        "{payload}{}",
        if check == 10 {
            "X".to_owned()
        } else {
            check.to_string()
        }
    )
}

fn spoiled_resident_id(rng: &mut Rng) -> String {
    let id = until(rng, |rng| {
        Some(resident_id(rng)).filter(|id| !id.ends_with('X'))
    });
    spoiled(&id, rng)
}

fn rrn(rng: &mut Rng) -> String {
    let payload = format!("{}{}{}", yymmdd(rng), rng.u8(1..5), digits(rng, 5));
    let rest = sum_of(&payload, &[2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5]) % 11;
    group(&format!("{payload}{}", (11 - rest) % 10), "-", &[6])
}

fn my_number(rng: &mut Rng) -> String {
    let payload = digits(rng, 11);
    let total: i64 = numbers(&payload)
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| digit * if at < 6 { at as i64 + 2 } else { at as i64 - 4 })
        .sum();
    let rest = total % 11;
    format!("{payload}{}", if rest <= 1 { 0 } else { 11 - rest })
}

fn za_id(rng: &mut Rng) -> String {
    luhn(&format!("{}{}08", yymmdd(rng), digits(rng, 4)))
}

fn tckn(rng: &mut Rng) -> String {
    let payload = format!("{}{}", rng.u8(1..10), digits(rng, 8));
    let all = numbers(&payload);
    let odd: i64 = all.iter().step_by(2).sum();
    let even: i64 = all.iter().skip(1).step_by(2).sum();
    let tenth = (odd * 7 - even).rem_euclid(10);
    format!("{payload}{tenth}{}", (odd + even + tenth) % 10)
}

fn il_id(rng: &mut Rng) -> String {
    luhn(&digits(rng, 8))
}

fn nhs(rng: &mut Rng) -> String {
    until(rng, |rng| {
        let payload = format!("{}{}", one(rng, &["4", "6", "7", "9"]), digits(rng, 8));
        let check = 11 - sum_of(&payload, &[10, 9, 8, 7, 6, 5, 4, 3, 2]) % 11;
        let check = if check == 11 { 0 } else { check };
        let nhs = format!("{payload}{check}");
        (check < 10).then(|| {
            if rng.bool() {
                group(&nhs, " ", &[3, 6])
            } else {
                nhs
            }
        })
    })
}

fn npi(rng: &mut Rng) -> String {
    let payload = format!("{}{}", one(rng, &["1", "2"]), digits(rng, 8));
    luhn(&format!("80840{payload}"))[5..].to_owned()
}

fn dea(rng: &mut Rng) -> String {
    let payload = digits(rng, 6);
    let all = numbers(&payload);
    let check = (all[0] + all[2] + all[4] + 2 * (all[1] + all[3] + all[5])) % 10;
    format!(
        "{}{}{payload}{check}",
        letters(rng, b"ABFGMPR", 1),
        letters(rng, UPPER, 1)
    )
}

fn mbi(rng: &mut Rng) -> String {
    let letter = b"ACDEFGHJKMNPQRTUVWXY";
    let both = b"0123456789ACDEFGHJKMNPQRTUVWXY";
    let mbi = format!(
        "{}{}{}{}{}{}{}{}{}",
        rng.u8(1..10),
        letters(rng, letter, 1),
        letters(rng, both, 1),
        digits(rng, 1),
        letters(rng, letter, 1),
        letters(rng, both, 1),
        digits(rng, 1),
        letters(rng, letter, 2),
        digits(rng, 2)
    );
    if rng.bool() {
        group(&mbi, "-", &[4, 7])
    } else {
        mbi
    }
}

fn au_medicare(rng: &mut Rng) -> String {
    let payload = format!("{}{}", rng.u8(2..7), digits(rng, 7));
    let check = sum_of(&payload, &[1, 3, 7, 9, 1, 3, 7, 9]) % 10;
    let card = format!("{payload}{check}{}", rng.u8(1..10));
    if rng.bool() {
        group(&card, " ", &[4, 9])
    } else {
        card
    }
}

fn spoiled_au_medicare(rng: &mut Rng) -> String {
    let card = au_medicare(rng).replace(' ', "");
    format!("{}{}", spoiled(&card[..9], rng), &card[9..])
}

fn imei(rng: &mut Rng) -> String {
    luhn(&format!("35{}", digits(rng, 12)))
}

fn vin(rng: &mut Rng) -> String {
    let of = b"ABCDEFGHJKLMNPRSTUVWXYZ0123456789";
    let (front, back) = (
        letters(rng, of, 8),
        format!("{}{}", letters(rng, of, 5), digits(rng, 3)),
    );
    let value = |letter: char| match letter {
        'A' | 'J' => 1,
        'B' | 'K' | 'S' => 2,
        'C' | 'L' | 'T' => 3,
        'D' | 'M' | 'U' => 4,
        'E' | 'N' | 'V' => 5,
        'F' | 'W' => 6,
        'G' | 'P' | 'X' => 7,
        'H' | 'Y' => 8,
        'R' | 'Z' => 9,
        digit => digit.to_digit(10).unwrap_or(0),
    };
    let weights = [8, 7, 6, 5, 4, 3, 2, 10, 9, 8, 7, 6, 5, 4, 3, 2];
    let sum: u32 = front
        .chars()
        .chain(back.chars())
        .zip(weights)
        .map(|(letter, weight)| value(letter) * weight)
        .sum();
    let check = if sum % 11 == 10 {
        "X".to_owned()
    } else {
        (sum % 11).to_string()
    };
    format!("{front}{check}{back}")
}

fn spoiled_vin(rng: &mut Rng) -> String {
    let vin = until(rng, |rng| {
        Some(vin(rng)).filter(|vin| vin.as_bytes()[8] != b'X')
    });
    format!("{}{}", spoiled(&vin[..9], rng), &vin[9..])
}

fn email(rng: &mut Rng) -> String {
    let local = letters(rng, b"abcdefghijklmnopqrstuvwxyz", 6);
    let middle = one(rng, &["", ".x", "+tag", "_1", "-b2"]);
    format!(
        "{local}{middle}{}@{}.{}",
        rng.u8(..99),
        one(rng, &["example", "mail.example", "big-corp"]),
        one(rng, &["com", "org", "co.uk", "de", "io"])
    )
}

fn phone(rng: &mut Rng) -> String {
    let area = one(rng, &["212", "415", "305", "646", "808"]);
    let exchange = format!("{}{:02}", rng.u8(2..10), rng.u8(12..99));
    let line = digits(rng, 4);
    match rng.u8(..5) {
        0 => format!("({area}) {exchange}-{line}"),
        1 => format!("{area}-{exchange}-{line}"),
        2 => format!("+1{area}{exchange}{line}"),
        3 => format!("+44 20 7{} {}", digits(rng, 3), digits(rng, 4)),
        _ => format!("+49 30 {}", digits(rng, 7)),
    }
}

fn ipv4(rng: &mut Rng) -> String {
    format!(
        "{}.{}.{}.{}",
        rng.u8(1..127),
        rng.u8(..),
        rng.u8(..),
        rng.u8(..)
    )
}

fn ipv6(rng: &mut Rng) -> String {
    let mut piece = || format!("{:x}", rng.u16(1..));
    match piece().len() % 3 {
        0 => format!("2001:db8:{}:{}::{}", piece(), piece(), piece()),
        1 => format!(
            "fe80::{}:{}:{}:{}1",
            piece(),
            piece(),
            piece(),
            &piece()[..1]
        ),
        _ => format!(
            "2001:db8:{}:{}:{}:{}:{}:{}",
            piece(),
            piece(),
            piece(),
            piece(),
            piece(),
            piece()
        ),
    }
}

fn mac(rng: &mut Rng) -> String {
    let pairs: Vec<String> = (0..6).map(|_| format!("{:02x}", rng.u8(..))).collect();
    pairs.join(if rng.bool() { ":" } else { "-" })
}

fn secret_letters(rng: &mut Rng, of: &[u8], count: usize) -> String {
    // Drawn at random a row of letters alone is possible and is nobody's token.
    until(rng, |rng| {
        let secret = letters(rng, of, count);
        let both = secret.bytes().any(|byte| byte.is_ascii_digit())
            && secret.bytes().any(|byte| byte.is_ascii_alphabetic());
        (both
            && secret.as_bytes()[0].is_ascii_alphanumeric()
            && secret.as_bytes()[count - 1].is_ascii_alphanumeric())
        .then_some(secret)
    })
}

/// Base64 of bytes, as RFC 4648 draws it.
fn base64(bytes: &[u8], of: &[u8], pad: bool) -> String {
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let bits = three
            .iter()
            .fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte))
            << (8 * (3 - three.len()));
        for place in 0..4 {
            match place <= three.len() {
                true => out.push(char::from(of[(bits >> (18 - 6 * place) & 63) as usize])),
                false if pad => out.push('='),
                false => {}
            }
        }
    }
    out
}

fn jwt(rng: &mut Rng) -> String {
    let header = one(
        rng,
        &[
            r#"{"alg":"HS256","typ":"JWT"}"#,
            r#"{"typ":"JWT","alg":"RS256","kid":"k1"}"#,
        ],
    );
    let claims = format!(
        r#"{{"sub":"{}","iat":{}}}"#,
        digits(rng, 10),
        digits(rng, 10)
    );
    let encode = |text: &str| base64(text.as_bytes(), URL64, false);
    format!(
        "{}.{}.{}",
        encode(header),
        encode(&claims),
        secret_letters(rng, URL64, 43)
    )
}

/// CRC-32 by polynomial division over all bits, and six letters of base 62.
fn github(rng: &mut Rng) -> String {
    let random = letters(rng, ALNUM, 30);
    let mut table = [0_u32; 256];
    for (index, entry) in (0_u32..).zip(&mut table) {
        *entry = (0..8).fold(index, |value, _| {
            if value & 1 == 1 {
                0xedb8_8320 ^ (value >> 1)
            } else {
                value >> 1
            }
        });
    }
    let mut crc = random.bytes().fold(u32::MAX, |crc, byte| {
        table[((crc ^ u32::from(byte)) & 255) as usize] ^ (crc >> 8)
    }) ^ u32::MAX;
    let order = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut check = Vec::new();
    for _ in 0..6 {
        check.insert(0, order[(crc % 62) as usize]);
        crc /= 62;
    }
    let check = String::from_utf8(check).expect("ASCII");
    format!(
        "{}{random}{check}",
        one(rng, &["ghp_", "gho_", "ghs_", "ghu_"])
    )
}

fn spoiled_github(rng: &mut Rng) -> String {
    let token = github(rng);
    let last = if token.ends_with('0') { '1' } else { '0' };
    format!("{}{last}", &token[..token.len() - 1])
}

fn framed(before: &str, value: &str, behind: &str) -> (String, Range<usize>) {
    (
        format!("{before}{value}{behind}"),
        before.len()..before.len() + value.len(),
    )
}

fn pem(value: &str, rng: &mut Rng) -> (String, Range<usize>) {
    match rng.bool() {
        true => framed("{\"key\":\"", value, "\",\"ok\":true}"),
        false => framed("loaded ", value, ""),
    }
}

fn draw_pem(rng: &mut Rng) -> String {
    let kind = one(rng, &["RSA ", "EC ", "", "OPENSSH ", "ENCRYPTED "]);
    let body: Vec<String> = (0..rng.usize(1..12))
        .map(|_| letters(rng, BASE64, 64))
        .collect();
    format!(
        "-----BEGIN {kind}PRIVATE KEY-----\\n{}\\n-----END {kind}PRIVATE KEY-----",
        body.join("\\n")
    )
}

fn header(scheme: &str, value: &str, rng: &mut Rng) -> (String, Range<usize>) {
    match rng.u8(..4) {
        0 => framed(&format!("Authorization: {scheme} "), value, ""),
        1 => framed(
            &format!("{{\"headers\":{{\"authorization\":\"{scheme} "),
            value,
            "\"},\"n\":1}",
        ),
        2 => framed(
            &format!("curl -H 'Authorization: {scheme} "),
            value,
            "' https://api.example",
        ),
        _ => framed(
            &format!("authorization={} ", scheme.to_lowercase()),
            value,
            " status=401",
        ),
    }
}

fn password(rng: &mut Rng) -> String {
    format!(
        "{}{}{}",
        letters(rng, ALNUM, 6),
        one(rng, &["!", "#", "_", "-x", "."]),
        letters(rng, ALNUM, 4)
    )
}

fn password_frame(value: &str, rng: &mut Rng) -> (String, Range<usize>) {
    match rng.u8(..6) {
        0 => framed("user=bob password=", value, " host=db1"),
        1 => framed("{\"user\":\"bob\",\"password\":\"", value, "\"}"),
        2 => framed("DB_PASSWORD=", value, ""),
        3 => framed("{\"body\":\"{\\\"passwd\\\":\\\"", value, "\\\"}\"}"),
        4 => framed("login with pwd: '", value, "' failed"),
        _ => framed("POST /login user=bob&password=", value, "&remember=1"),
    }
}

fn cookie_frame(value: &str, rng: &mut Rng) -> (String, Range<usize>) {
    match rng.u8(..3) {
        0 => framed("Cookie: ", value, ""),
        1 => framed("{\"cookie\":\"", value, "\",\"status\":200}"),
        _ => framed("> cookie: ", value, ""),
    }
}

fn url_frame(value: &str, rng: &mut Rng) -> (String, Range<usize>) {
    let scheme = one(rng, &["postgres", "https", "amqp", "mongodb+srv", "redis"]);
    framed(
        &format!("connecting to {scheme}://svc_app:"),
        value,
        "@db-1:5432/orders",
    )
}

const PLAIN: &[&str] = &["value", "field", "note", "customer record", "input"];

/// All kinds.
pub(crate) fn kinds() -> Vec<Kind> {
    let kind = |name, keys, draw| Kind {
        name,
        keys,
        draw,
        spoil: None,
        frame: None,
    };
    /// The drawn value with its last digit wrong.
    macro_rules! checked {
        ($name:literal, $keys:expr, $draw:expr) => {
            Kind {
                spoil: Some(|rng| {
                    let value = $draw(rng);
                    spoiled(&value, rng)
                }),
                ..kind($name, $keys, $draw)
            }
        };
    }
    macro_rules! spoilt {
        ($name:literal, $keys:expr, $draw:expr, $spoil:expr) => {
            Kind {
                spoil: Some($spoil),
                ..kind($name, $keys, $draw)
            }
        };
    }
    macro_rules! framed {
        ($name:literal, $draw:expr, $frame:expr) => {
            Kind {
                frame: Some($frame),
                ..kind($name, PLAIN, $draw)
            }
        };
    }
    vec![
        checked!(
            "credit_card",
            &["card number", "pan", "credit card", "payment"],
            credit_card
        ),
        spoilt!("iban", &["iban", "account", "bank account"], iban, |rng| {
            let iban = iban(rng);
            let other = (iban[2..4].parse::<u32>().unwrap_or(0) + 1) % 97;
            format!("{}{other:02}{}", &iban[..2], &iban[4..])
        }),
        checked!(
            "aba_routing",
            &["routing number", "ABA", "aba routing", "RTN"],
            aba
        ),
        kind(
            "swift_bic",
            &["BIC", "swift code", "bic code", "SWIFT"],
            bic,
        ),
        spoilt!(
            "btc_address",
            &["wallet", "address to", "btc"],
            bitcoin,
            spoiled_bitcoin
        ),
        kind("eth_address", &["wallet", "eth wallet", "sender"], ethereum),
        spoilt!(
            "us_ssn",
            &["SSN", "social security number", "social security no", "ssn"],
            ssn,
            spoiled_ssn
        ),
        kind("us_itin", &["ITIN", "itin number", "taxpayer id"], itin),
        kind(
            "us_ein",
            &["EIN", "employer identification number", "fein"],
            ein,
        ),
        kind(
            "us_passport",
            &["passport", "passport number", "passport no"],
            passport,
        ),
        checked!("ca_sin", &["SIN", "social insurance number", "sin"], sin),
        checked!("br_cpf", &["CPF", "cpf cliente", "numero cpf"], cpf),
        checked!("br_cnpj", &["CNPJ", "cnpj empresa"], cnpj),
        checked!("mx_curp", &["CURP", "clave", "value"], curp),
        kind(
            "uk_nino",
            &["NINO", "national insurance number", "NI number"],
            nino,
        ),
        spoilt!(
            "uk_utr",
            &["UTR", "unique taxpayer reference", "utr number"],
            utr,
            |rng| {
                let utr = utr(rng);
                format!(
                    "{}{}",
                    (utr.as_bytes()[0] - b'0' + rng.u8(1..9)) % 10,
                    &utr[1..]
                )
            }
        ),
        spoilt!("es_dni", &["DNI", "dni titular", "NIF"], dni, spoiled_dni),
        kind("es_nie", &["NIE", "nie titular"], nie),
        checked!(
            "fr_nir",
            &["NIR", "numero de securite sociale", "insee"],
            nir
        ),
        checked!(
            "de_steuer_id",
            &["Steuer ID", "steuer idnr", "Steueridentifikationsnummer"],
            steuer_id
        ),
        spoilt!(
            "it_codice_fiscale",
            &["codice fiscale", "cf", "value"],
            codice_fiscale,
            spoiled_codice_fiscale
        ),
        checked!("nl_bsn", &["BSN", "burgerservicenummer", "bsn nummer"], bsn),
        checked!(
            "be_nrn",
            &["rijksregisternummer", "NISS", "registre national"],
            nrn
        ),
        checked!("pl_pesel", &["PESEL", "nr pesel", "pesel number"], pesel),
        checked!("se_personnummer", &["personnummer", "pnr"], personnummer),
        checked!("no_fodselsnummer", &["fodselsnummer", "fnr"], fodselsnummer),
        spoilt!("fi_hetu", &["hetu", "henkilotunnus"], hetu, spoiled_hetu),
        kind("dk_cpr", &["CPR", "cpr nummer", "cpr nr"], cpr),
        checked!("pt_nif", &["NIF", "contribuinte", "nif cliente"], nif),
        kind("ie_pps", &["PPS number", "PPSN", "ppsn"], pps),
        checked!("ch_ahv", &["AHV", "avs nummer", "ahv nummer"], ahv),
        checked!("au_tfn", &["TFN", "tax file number"], tfn),
        kind("au_abn", &["ABN", "business number"], abn),
        checked!(
            "in_aadhaar",
            &["Aadhaar", "aadhaar number", "uidai"],
            aadhaar
        ),
        spoilt!(
            "in_pan",
            &["PAN", "pan card", "permanent account number"],
            pan,
            spoiled_pan
        ),
        kind("sg_nric", &["NRIC", "nric fin", "FIN"], nric),
        spoilt!("cn_resident_id", PLAIN, resident_id, spoiled_resident_id),
        kind(
            "kr_rrn",
            &["RRN", "value", "resident registration number"],
            rrn,
        ),
        checked!(
            "jp_my_number",
            &["my number", "individual number", "kojin bango"],
            my_number
        ),
        checked!("za_id", &["id number", "SA ID", "identity number"], za_id),
        checked!("tr_tckn", &["TC Kimlik No", "tckn", "kimlik no"], tckn),
        checked!("il_id", &["Teudat Zehut", "israeli id", "zehut"], il_id),
        checked!("uk_nhs", &["NHS number", "nhs no", "NHS"], nhs),
        checked!(
            "us_npi",
            &["NPI", "npi number", "national provider identifier"],
            npi
        ),
        checked!("us_dea", &["DEA", "dea number", "dea no"], dea),
        kind(
            "us_mbi",
            &["MBI", "medicare beneficiary", "mbi number"],
            mbi,
        ),
        spoilt!(
            "au_medicare",
            &["Medicare", "medicare number", "medicare card"],
            au_medicare,
            spoiled_au_medicare
        ),
        checked!("imei", &["IMEI", "imei number", "device imei"], imei),
        spoilt!("vin", &["VIN", "vehicle", "vin number"], vin, spoiled_vin),
        kind("email", &["email", "to", "customer", "user"], email),
        kind("phone", &["phone", "mobile", "tel", "contact"], phone),
        kind("ipv4", &["client", "remote addr", "ip", "peer"], ipv4),
        kind("ipv6", &["client", "remote addr", "ip", "peer"], ipv6),
        kind("mac_address", &["mac", "hwaddr", "device"], mac),
        framed!(
            "url_credentials",
            |rng| secret_letters(rng, ALNUM, 12),
            url_frame
        ),
        kind("jwt", &["jwt", "id", "value"], jwt),
        framed!("private_key", draw_pem, pem),
        framed!(
            "bearer_token",
            |rng| secret_letters(rng, URL64, 40),
            |value, rng| header("Bearer", value, rng)
        ),
        framed!(
            "basic_auth",
            |rng| {
                let pair = format!("{}:{}", letters(rng, ALNUM, 6), letters(rng, ALNUM, 9));
                base64(pair.as_bytes(), BASE64, true)
            },
            |value, rng| header("Basic", value, rng)
        ),
        framed!(
            "cookie",
            |rng| format!(
                "sid={}; theme={}",
                letters(rng, ALNUM, 20),
                one(rng, &["dark", "light"])
            ),
            cookie_frame
        ),
        framed!("password", password, password_frame),
        kind(
            "generic_secret",
            &[
                "api key",
                "client secret",
                "access token",
                "auth token",
                "secret key",
            ],
            |rng| secret_letters(rng, URL64, 32),
        ),
        kind(
            "aws_access_key",
            &["aws access key id", "access key", "key"],
            |rng| {
                format!(
                    "{}{}",
                    one(rng, &["AKIA", "ASIA"]),
                    letters(rng, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16)
                )
            },
        ),
        kind(
            "aws_secret_key",
            &[
                "aws secret access key",
                "aws secret key",
                "secret access key",
            ],
            |rng| secret_letters(rng, BASE64, 40),
        ),
        kind("gcp_api_key", &["key", "google key", "maps"], |rng| {
            format!("AIza{}", secret_letters(rng, URL64, 35))
        }),
        kind(
            "gcp_oauth_token",
            &["credentials", "google", "value"],
            |rng| format!("ya29.{}", secret_letters(rng, URL64, 60)),
        ),
        framed!(
            "azure_storage_key",
            |rng| format!("{}==", letters(rng, BASE64, 86)),
            |value, _| framed(
                "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=",
                value,
                ";EndpointSuffix=core.windows.net"
            )
        ),
        kind(
            "azure_client_secret",
            &["client secret", "azure secret", "value"],
            |rng| {
                format!(
                    "{}8Q~{}",
                    secret_letters(rng, ALNUM, 3),
                    secret_letters(rng, ALNUM, 34)
                )
            },
        ),
        framed!(
            "azure_sas",
            |rng| format!("{}%3D", secret_letters(rng, ALNUM, 43)),
            |value, _| framed(
                "GET https://acct.blob.core.windows.net/c/b?sv=2022-11-02&sp=r&sig=",
                value,
                "&se=2026-12-01 403"
            )
        ),
        spoilt!(
            "github_token",
            &["github", "GH", "value"],
            github,
            spoiled_github
        ),
        kind(
            "gitlab_token",
            &["gitlab", "private token", "value"],
            |rng| format!("glpat-{}", secret_letters(rng, URL64, 20)),
        ),
        kind("slack_token", &["slack", "bot", "value"], |rng| {
            format!(
                "xoxb-{}-{}-{}",
                digits(rng, 12),
                digits(rng, 13),
                secret_letters(rng, ALNUM, 24)
            )
        }),
        framed!(
            "slack_webhook",
            |rng| format!(
                "T{}/B{}/{}",
                letters(rng, b"ABCDEFGH0123456789", 8),
                letters(rng, b"ABCDEFGH0123456789", 8),
                letters(rng, ALNUM, 24)
            ),
            |value, _| framed("POST https://hooks.slack.com/services/", value, " 200")
        ),
        kind("stripe_key", &["stripe", "payments key", "value"], |rng| {
            format!(
                "{}{}",
                one(rng, &["sk_test_", "sk_live_", "rk_live_"]),
                secret_letters(rng, ALNUM, 24)
            )
        }),
        kind("twilio_key", &["twilio", "sms key", "value"], |rng| {
            format!("SK{}", letters(rng, HEX, 32))
        }),
        kind("sendgrid_key", &["sendgrid", "mailer", "value"], |rng| {
            format!(
                "SG.{}.{}",
                secret_letters(rng, URL64, 22),
                secret_letters(rng, URL64, 43)
            )
        }),
        kind("mailgun_key", &["mailgun", "mailer", "value"], |rng| {
            format!("key-{}", letters(rng, HEX, 32))
        }),
        kind("npm_token", &["npm", "registry", "value"], |rng| {
            format!("npm_{}", secret_letters(rng, ALNUM, 36))
        }),
        kind("pypi_token", &["pypi", "upload", "value"], |rng| {
            format!("pypi-AgEIcHlwaS5vcmc{}", secret_letters(rng, URL64, 120))
        }),
        kind("openai_key", &["openai", "llm key", "value"], |rng| {
            format!(
                "sk-{}T3BlbkFJ{}",
                secret_letters(rng, ALNUM, 20),
                secret_letters(rng, ALNUM, 20)
            )
        }),
        kind("anthropic_key", &["anthropic", "llm key", "value"], |rng| {
            format!("sk-ant-api03-{}AA", secret_letters(rng, URL64, 93))
        }),
        kind(
            "datadog_key",
            &["DD API KEY", "dd api key", "datadog api key"],
            |rng| letters(rng, HEX, 32),
        ),
        kind(
            "newrelic_key",
            &["new relic", "license", "value"],
            |rng| match rng.bool() {
                true => format!(
                    "NRAK-{}",
                    letters(rng, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", 27)
                ),
                false => format!("{}NRAL", letters(rng, HEX, 36)),
            },
        ),
        kind(
            "huggingface_token",
            &["huggingface", "hub", "value"],
            |rng| {
                format!(
                    "hf_{}",
                    letters(
                        rng,
                        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
                        34
                    )
                )
            },
        ),
        kind("shopify_token", &["shopify", "shop", "value"], |rng| {
            format!("shpat_{}", letters(rng, HEX, 32))
        }),
        kind(
            "digitalocean_token",
            &["digitalocean", "cloud", "value"],
            |rng| format!("dop_v1_{}", letters(rng, HEX, 64)),
        ),
        kind("vault_token", &["vault", "X Vault", "value"], |rng| {
            format!("hvs.{}", secret_letters(rng, URL64, 40))
        }),
        kind("telegram_token", &["bot", "telegram", "value"], |rng| {
            format!(
                "{}{}:AA{}",
                rng.u8(1..10),
                digits(rng, 9),
                secret_letters(rng, URL64, 33)
            )
        }),
        kind("docker_token", &["docker", "registry", "value"], |rng| {
            format!("dckr_pat_{}", secret_letters(rng, URL64, 27))
        }),
        kind(
            "databricks_token",
            &["databricks", "workspace", "value"],
            |rng| format!("dapi{}", letters(rng, HEX, 32)),
        ),
        kind("grafana_token", &["grafana", "dashboard", "value"], |rng| {
            format!(
                "glsa_{}_{}",
                secret_letters(rng, ALNUM, 32),
                letters(rng, HEX, 8)
            )
        }),
        kind("atlassian_token", &["jira", "atlassian", "value"], |rng| {
            format!(
                "ATATT3{}={}",
                secret_letters(rng, URL64, 184),
                letters(rng, b"0123456789ABCDEF", 8)
            )
        }),
    ]
}
