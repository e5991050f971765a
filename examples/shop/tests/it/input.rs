//! Files as they come.

use crate::program::{HEADER, Shop};

#[test]
fn a_file_that_is_none_of_purchases_is_named_and_no_database_is_made() {
    let shop = Shop::new();
    std::fs::create_dir(shop.path("a-folder")).unwrap();
    shop.write("binary", (0..=u8::MAX).cycle().take(100_000).collect::<Vec<_>>());
    shop.write("zeros", vec![0; 3_000_000]);
    shop.write("empty.txt", "");
    shop.write("blank.txt", "\n\n");
    shop.write("other.txt", "date,customer\n19970101,1\n");
    shop.write("headless.txt", "00001 19970101 1 11.77\n");
    let before = shop.files();
    for (file, word) in [
        ("missing.txt", "cannot read"),
        ("a-folder", "cannot read"),
        ("binary", "customer_id"),
        ("zeros", "customer_id"),
        ("empty.txt", "customer_id"),
        ("blank.txt", "customer_id"),
        ("other.txt", "customer_id"),
        ("headless.txt", "customer_id"),
    ] {
        for on_error in ["stop", "skip"] {
            let ran = shop.run(&["import", file, "--on-error", on_error]);
            ran.complains(2, &[file, word]);
            assert_eq!(ran.out, "");
        }
    }
    assert_eq!(shop.files(), before, "no database was made");
}

/// Lines that are no purchase, and a word of what is said of each.
const BROKEN: [(&str, &str); 18] = [
    ("00002 19970102 2", "four fields"),
    ("00002 19970102 2 2.00 2", "four fields"),
    ("ada 19970102 2 2.00", "customer"),
    ("-2 19970102 2 2.00", "customer"),
    ("000000000000000000000000000002 19970102 2 2.00", "customer"),
    ("00002 19970230 2 2.00", "date"),
    ("00002 1997012 2 2.00", "date"),
    ("00002 1997-01-02 2 2.00", "date"),
    ("00002 -19970102 2 2.00", "date"),
    ("00002 19970102 two 2.00", "CDs"),
    ("00002 19970102 -2 2.00", "CDs"),
    ("00002 19970102 99999999999 2.00", "CDs"),
    ("00002 19970102 0 2.00", "at least one CD"),
    ("00002 19970102 2 2,00", "12.34"),
    ("00002 19970102 2 2.001", "12.34"),
    ("00002 19970102 2 -2.00", "-2.00"),
    ("00002 19970102 2 1000000.01", "1,000,000.01"),
    ("00002 19970102 2 92233720368547758.07", "92,233,720,368,547,758.07"),
];

#[test]
fn at_a_broken_line_it_stops_with_its_number_and_keeps_what_came_before() {
    for (broken, word) in BROKEN {
        let shop = Shop::new();
        shop.write_lines("purchases.txt", &["00001 19970101 1 1.00", broken, "00003 19970103 3 3.00"]);
        let ran = shop.run(&["import", "purchases.txt"]);
        ran.complains(1, &["line 3: ", word]);
        assert!(
            ran.out.starts_with("stopped after 1 purchases") && ran.out.contains("--on-error skip"),
            "{ran:?}"
        );
        assert_eq!(shop.run(&["history", "00001"]).well().last(), "1 purchases");
        shop.run(&["history", "00002"]).complains(1, &["no customer 00002"]);

        // Corrected, the file is imported to its end.
        let good = ["00001 19970101 1 1.00", "00002 19970102 2 2.00", "00003 19970103 3 3.00"];
        shop.write_lines("purchases.txt", &good);
        let ran = shop.run(&["import", "purchases.txt"]).well();
        assert_eq!(ran.counts().iter().sum::<u64>(), 3, "{ran:?}");
        assert_eq!(ran.last(), "3 purchases by 3 customers: 6 CDs for 6.00 dollars");
    }
}

#[test]
fn it_can_skip_broken_lines_and_names_each() {
    let shop = Shop::new();
    let lines: Vec<&str> = BROKEN.iter().flat_map(|(line, _)| ["00001 19970101 1 1.00", *line]).collect();
    shop.write_lines("purchases.txt", &lines);
    let ran = shop.run(&["import", "purchases.txt", "--on-error", "skip"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.err.lines().count(), BROKEN.len(), "{ran:?}");
    for (said, (number, (_, word))) in ran.err.lines().zip((3..).step_by(2).zip(BROKEN)) {
        assert!(said.starts_with(&format!("shop: line {number}: ")) && said.contains(word), "{said}");
    }
    assert_eq!(ran.counts(), [18, 0, 18]);
    assert_eq!(ran.last(), "18 purchases by 1 customers: 18 CDs for 18.00 dollars");

    let again = shop.run(&["import", "purchases.txt", "--on-error", "skip"]);
    assert_eq!((again.counts(), again.figures()), ([0, 18, 18], ran.figures()));
    assert_eq!(again.err, ran.err);
}

#[test]
fn line_ends_empty_lines_and_spaces_do_not_matter() {
    for file in [
        format!("{HEADER}\n1 19970101 1 1.00\n2 19970102 2 2.00\n"),
        format!("{HEADER}\r\n1 19970101 1 1.00\r\n2 19970102 2 2.00\r\n"),
        format!("{HEADER}\n1 19970101 1 1.00\n2 19970102 2 2.00"),
        format!("{HEADER}\r\n1 19970101 1 1.00\n2 19970102 2 2.00\r"),
        format!("\u{feff}{HEADER}\n\n\n  1\t19970101\t1 1\n   \n\t2 19970102   2 2.0  \n\n\r\n"),
    ] {
        let shop = Shop::new();
        shop.write("purchases.txt", &file);
        let ran = shop.run(&["import", "purchases.txt"]).well();
        assert_eq!(ran.counts(), [2, 0, 0], "{file:?}");
        assert_eq!(ran.last(), "2 purchases by 2 customers: 3 CDs for 3.00 dollars", "{file:?}");
    }
}

#[test]
fn a_header_alone_is_a_file_without_purchases() {
    let shop = Shop::new();
    shop.write("purchases.txt", HEADER);
    let ran = shop.run(&["import", "purchases.txt"]).well();
    assert_eq!(ran.counts(), [0, 0, 0]);
}

#[test]
fn bytes_that_are_no_text_and_lines_without_end_are_broken_lines() {
    const ENDLESS: usize = 10_000_000;
    let mut file = format!("{HEADER}\n1 19970101 1 1.00\n").into_bytes();
    file.extend(b"2 1997\xff\xfe02 2 2.00\n");
    file.extend(b"\xc3\x28\n");
    for filler in [b'x', b' ', b'7'] {
        file.extend(b"2 19970102 2 2.00");
        file.resize(file.len() + ENDLESS, filler);
        file.push(b'\n');
    }
    file.extend([b' '; 1_500]);
    file.extend(b"2 19970102 2 2.00\n");
    file.extend(b"3 19970103 3 3.00\n");
    let shop = Shop::new();
    shop.write("purchases.txt", file);

    shop.run(&["import", "purchases.txt"]).complains(1, &["line 3: "]);
    let ran = shop.run(&["import", "purchases.txt", "--on-error", "skip"]);
    // What stood after the broken line was perhaps on its way when the first run stopped.
    let [new, before, skipped] = ran.counts();
    assert_eq!((ran.code, new + before, skipped), (Some(0), 2, 6), "{ran:?}");
    assert_eq!(ran.last(), "2 purchases by 2 customers: 4 CDs for 4.00 dollars");
    let numbers: Vec<&str> = ran.err.lines().filter_map(|said| said.split(':').nth(1)).collect();
    assert_eq!(numbers, [3, 4, 5, 6, 7, 8].map(|number| format!(" line {number}")));
    assert!(ran.err.lines().all(|said| said.len() < 300), "a line of the file is shown in part: {}", ran.err);
}

#[test]
fn equal_lines_are_different_purchases() {
    let shop = Shop::new();
    shop.write_lines("purchases.txt", &["1 19970101 1 1.00"; 5]);
    assert_eq!(shop.run(&["import", "purchases.txt"]).well().counts(), [5, 0, 0]);
    assert_eq!(shop.run(&["import", "purchases.txt"]).well().counts(), [0, 5, 0]);
    assert_eq!(shop.run(&["history", "1"]).well().last(), "5 purchases");
}

#[test]
fn a_file_may_grow_and_a_file_of_another_name_is_another() {
    let shop = Shop::new();
    shop.write_lines("january.txt", &["1 19970101 1 1.00"]);
    shop.run(&["import", "january.txt"]).well();
    shop.write_lines("january.txt", &["1 19970101 1 1.00", "1 19970102 1 1.00"]);
    assert_eq!(shop.run(&["import", "january.txt"]).well().counts(), [1, 1, 0]);
    shop.write_lines("february.txt", &["1 19970101 1 1.00"]);
    assert_eq!(shop.run(&["import", "february.txt"]).well().counts(), [1, 0, 0]);
}

#[test]
fn a_line_that_was_another_purchase_before_is_said_and_changes_nothing() {
    let shop = Shop::new();
    shop.write_lines("purchases.txt", &["1 19970101 1 1.00"]);
    shop.run(&["import", "purchases.txt"]).well();
    shop.write_lines("purchases.txt", &["1 19970101 1 9.00"]);
    for on_error in ["stop", "skip"] {
        let ran = shop.run(&["import", "purchases.txt", "--on-error", on_error]);
        ran.complains(1, &["line 2", "was another purchase", "\"purchases\""]);
    }
    assert_eq!(shop.run(&["report"]).well().last(), "1 purchases by 1 customers: 1 CDs for 1.00 dollars");
}
