use super::{
    super::grid::{Cell, Column, ColumnKind, Line, column},
    *,
};

const COLUMNS: &[Column] = &[
    column("SERVICE", 'n', ColumnKind::Name),
    column("CONN/S", 'c', ColumnKind::Number(6)),
    column("FAIL/S", 'f', ColumnKind::Number(6)),
];

fn grid(ids: &[u32]) -> Grid {
    let line = |id: &u32| Line { key: RowKey::Service(*id), cells: vec![Cell::text(format!("shop/s{id}"))] };
    Grid { columns: COLUMNS, lines: ids.iter().map(line).collect() }
}

fn type_text(view: &mut View, text: &str, grid: &Grid) -> Effect {
    let mut effects = text.chars().map(|character| view.press(Key::Character(character), grid, 3));
    effects.by_ref().last().unwrap()
}

#[test]
fn the_cursor_stays_on_its_row_when_rows_move() {
    let (mut view, ten) = (View::new(), grid(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]));
    for (key, cursor, offset) in [
        (Key::Down, 1, 0),
        (Key::Down, 2, 0),
        (Key::Down, 3, 1),
        (Key::Up, 2, 1),
        (Key::PageDown, 5, 3),
        (Key::End, 9, 7),
        (Key::Down, 9, 7),
        (Key::PageUp, 6, 6),
    ] {
        view.press(key, &ten, 3);
        view.place_mut().scroll(&ten, 3);
        assert_eq!((view.place().cursor(&ten), view.place().offset), (cursor, offset), "{key:?}");
    }
    let moved = grid(&[6, 1, 2]);
    view.place_mut().scroll(&moved, 3);
    assert_eq!((view.place().cursor(&moved), view.place().offset), (0, 0));
    // A row that is gone leaves the first one selected, and so does Home whatever is the first.
    assert_eq!(view.place().cursor(&grid(&[8, 9])), 0);
    view.press(Key::Home, &ten, 3);
    assert_eq!(view.place().cursor(&grid(&[9, 0])), 0);
    let none = grid(&[]);
    view.press(Key::Down, &none, 3);
    view.place_mut().scroll(&none, 3);
    assert_eq!(view.press(Key::Enter, &none, 3), Effect::Redraw);
}

#[test]
fn enter_goes_from_a_service_to_a_backend_and_back() {
    let (mut view, services) = (View::new(), grid(&[4, 5]));
    view.press(Key::Down, &services, 3);
    assert_eq!(view.press(Key::Enter, &services, 3), Effect::Open);
    assert_eq!(view.place().subject, Subject::Backends { service: 5, name: "shop/s5".to_owned() });
    let backend: SocketAddr = ([10, 244, 1, 4], 8080).into();
    let lines = vec![Line { key: RowKey::Backend(backend), cells: vec![Cell::text("10.244.1.4:8080")] }];
    let backends = Grid { columns: COLUMNS, lines };
    view.press(Key::Enter, &backends, 3);
    assert_eq!(view.place().subject, Subject::Clients { service: 5, backend });
    let path: Vec<_> = view.path().map(Subject::title).collect();
    assert_eq!(path, ["Services", "shop/s5", "10.244.1.4:8080"]);
    view.press(Key::Back, &backends, 3);
    assert_eq!(view.press(Key::Back, &backends, 3), Effect::Open);
    assert_eq!((view.place().subject.clone(), view.place().cursor(&services)), (Subject::Services, 1));
    assert_eq!(view.press(Key::Back, &services, 3), Effect::Redraw);
}

#[test]
fn tabs_are_opened_by_number_or_in_turn() {
    let (mut view, none) = (View::new(), grid(&[]));
    for (key, want) in [
        (Key::Tab, Subject::Refusals),
        (Key::Tab, Subject::Dns),
        (Key::Tab, Subject::Services),
        (Key::Character('3'), Subject::Dns),
        (Key::Character('2'), Subject::Refusals),
    ] {
        assert_eq!(view.press(key, &none, 3), Effect::Open);
        assert_eq!(view.place().subject, want);
    }
}

#[test]
fn rows_are_sorted_by_the_letters_of_columns() {
    let (mut view, services) = (View::new(), grid(&[1]));
    for (text, column, is_reversed) in [
        ("f", 2, false),
        ("R", 2, true),
        ("n", 0, false),
        ("<", 0, false),
        (">", 1, false),
        (">>>", 2, false),
        ("y", 2, false),
    ] {
        type_text(&mut view, text, &services);
        assert_eq!(view.sort(), Sort { column, is_reversed }, "{text}");
    }
    view.press(Key::Enter, &services, 3);
    assert_eq!(view.sort().column, 1, "each table has an order of its own");
}

#[test]
fn a_filter_is_typed_kept_and_removed() {
    let (mut view, services) = (View::new(), grid(&[1]));
    type_text(&mut view, "/qc", &services);
    assert_eq!((view.mode, view.place().filter.as_str()), (Mode::Filter, "qc"), "letters are no commands");
    view.press(Key::Backspace, &services, 3);
    view.press(Key::Enter, &services, 3);
    assert_eq!((view.mode, view.place().filter.as_str()), (Mode::Table, "q"));
    view.press(Key::Back, &services, 3);
    assert_eq!(view.place().filter, "");
    type_text(&mut view, "/x", &services);
    view.press(Key::Back, &services, 3);
    assert_eq!((view.mode, view.place().filter.as_str()), (Mode::Table, ""));
}

#[test]
fn keys_of_all_modes() {
    let (mut view, none) = (View::new(), grid(&[]));
    assert_eq!(type_text(&mut view, " ", &none), Effect::Redraw);
    assert!(view.is_paused);
    assert_eq!(type_text(&mut view, " ", &none), Effect::Read);
    type_text(&mut view, "?", &none);
    assert_eq!(view.mode, Mode::Help);
    assert_eq!(type_text(&mut view, "q", &none), Effect::Redraw, "any key closes the help");
    assert_eq!(view.press(Key::Suspend, &none, 3), Effect::Suspend);
    type_text(&mut view, "/", &none);
    assert_eq!(view.press(Key::Interrupt, &none, 3), Effect::Quit);
    view.press(Key::Enter, &none, 3);
    assert_eq!(type_text(&mut view, "q", &none), Effect::Quit);
}
