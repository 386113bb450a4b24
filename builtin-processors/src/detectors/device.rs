//! Numbers of vehicles and devices that lead to a person.

use super::{Boundary, Category, Detector, OTHER_NUMBERS, checks};

const BASE: Detector = Detector {
    other_keys: OTHER_NUMBERS,
    kept: b" -",
    ..Detector::of(Category::Device, Boundary::Number)
};

pub(super) const DETECTORS: &[Detector] = &[
    Detector {
        name: "imei",
        title: "IMEI of a mobile device",
        description: "15 digits, alone or as 2-6-6-1, with Luhn's check digit (3GPP TS 23.003, annex B). \
            Always needs a keyword.",
        pattern: r"(?-u)\d{2}[ +-]\d{6}[ +-]\d{6}[ +-]\d|\d{15}",
        check: Some(|matched| {
            checks::luhn_in::<15>(matched)
                && checks::digits::<15>(matched).is_some_and(|digits| !checks::are_alike(&digits))
        }),
        keywords: &["imei", "device id", "equipment identity", "handset"],
        examples: &["IMEI 35-417803-685978-9", "imei=354178036859789"],
        ..BASE
    },
    Detector {
        name: "vin",
        title: "vehicle identification number",
        description: "17 letters and digits without I, O and Q, with the check character of North \
            America and China in the ninth place (49 CFR 565.15; ISO 3779). Always needs a keyword.",
        pattern: r"(?-u)[A-HJ-NPR-Z0-9]{8}[0-9X][A-HJ-NPR-Z0-9]{5}\d{3}",
        check: Some(is_vin),
        boundary: Boundary::Word,
        keywords: &[
            "vin",
            "vehicle",
            "chassis",
            "fahrgestellnummer",
            "fahrzeug",
            "car",
        ],
        examples: &["VIN 1M8GDM9AXKP042788", "vehicle_id=1HGCM82633A004352"],
        ..BASE
    },
];

fn is_vin(matched: &[u8]) -> bool {
    const WEIGHTS: [u32; 17] = [8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2];
    let Some(characters) = checks::alphanumerics::<17>(matched) else {
        return false;
    };
    // Letters count 1 to 9 and begin anew at J and at S, there with 2.
    let value = |byte: u8| match byte {
        b'0'..=b'9' => u32::from(byte - b'0'),
        b'A'..=b'H' => u32::from(byte - b'A') + 1,
        b'J'..=b'R' => u32::from(byte - b'J') + 1,
        _ => u32::from(byte.wrapping_sub(b'S')) + 2,
    };
    let sum: u32 = characters
        .iter()
        .zip(WEIGHTS)
        .map(|(&byte, weight)| value(byte) * weight)
        .sum();
    let check = match characters[8] {
        b'X' => 10,
        digit => u32::from(digit.wrapping_sub(b'0')),
    };
    sum % 11 == check && characters.iter().any(u8::is_ascii_alphabetic)
}
